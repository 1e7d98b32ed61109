"""Knowledge distillation: learn from the answers of trained networks (Hinton et al. 2015).

The "patient and consistent" way (Beyer et al. 2022, arXiv 2106.05237): teacher and student see the
very same augmented, perhaps mixed, view. Nothing of the teachers is saved with the student.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from lightning_train.classifier import CarClassifier

__all__ = ["Distillation"]


class Distillation:
    """Teachers, and how much they have to say.

    Args:
        teachers: checkpoints of this trainer; several are averaged.
        weight: share of the teachers' word in the loss, 0…1; the rest is the labels'.
        temperature: softens both sides' probabilities (arXiv 1503.02531, section 2).
    """

    def __init__(self, teachers: list[str], weight: float = 0.9, temperature: float = 2.0) -> None:
        if not teachers:
            raise ValueError("distillation needs a teacher: a checkpoint of this trainer")
        if not 0 <= weight <= 1 or temperature <= 0:
            raise ValueError("distillation: weight lies in 0…1, temperature is more than 0")
        self.teachers = teachers
        self.weight = weight
        self.temperature = temperature
        self._models: list[CarClassifier] = []

    def load(self, class_names: Sequence[str], device: torch.device) -> None:
        """Read the teachers and move them to the device, once.

        Raises:
            ValueError: no such checkpoint, or one with other classes.
        """
        from lightning_train.export import load_classifier  # needs the classifier, which needs us

        if self._models:
            return
        for path in self.teachers:
            model = load_classifier(path)
            if model.class_names != list(class_names):
                raise ValueError(
                    f"the teacher {path} knows other classes than the data set: train one on it"
                )
            self._models.append(model.requires_grad_(False).to(device))

    @torch.no_grad()
    def teach(self, images: Tensor) -> Tensor:
        """The teachers' mean softened probabilities [N, C] of pixels [N, 3, H, W].

        Each teacher gets the view at the size it was made for, and normalised its own way.
        """
        if images.dtype == torch.uint8:
            images = images.float() / 255
        answers = []
        for model in self._models:
            size = (model.hparams["size"],) * 2
            view = images
            if view.shape[-2:] != size:
                view = nn.functional.interpolate(view, size, mode="bilinear", antialias=True)
            answers.append((model(view).float() / self.temperature).softmax(1))
        return torch.stack(answers).mean(0)

    def loss(self, logits: Tensor, images: Tensor, loss_of_labels: Tensor) -> Tensor:
        """The student's whole loss, a scalar.

        Args:
            logits: the student's, [N, C].
            images: what it saw, [N, 3, H, W].
            loss_of_labels: scalar.
        """
        taught = self.teach(images)
        log_probability = (logits.float() / self.temperature).log_softmax(1)
        divergence = nn.functional.kl_div(log_probability, taught, reduction="batchmean")
        # T² keeps the gradients' size whatever the temperature (section 2 of the paper).
        return (1 - self.weight) * loss_of_labels + self.weight * self.temperature**2 * divergence
