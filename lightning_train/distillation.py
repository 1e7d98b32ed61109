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
        teachers: checkpoints of this trainer, or folders of float weights; several are averaged.
        weight: share of the teachers' word in the loss, 0…1; the rest is the labels'.
        temperature: softens both sides' probabilities (arXiv 1503.02531, section 2).
        max_size: side in pixels that no teacher's view exceeds; None for each its own. Where the
            student trains on small photos, large teachers cost more than it does.
    """

    def __init__(
        self,
        teachers: list[str],
        weight: float = 0.9,
        temperature: float = 2.0,
        max_size: int | None = None,
    ) -> None:
        if not teachers:
            raise ValueError(
                "distillation needs a teacher: a checkpoint of this trainer, or float weights"
            )
        if not 0 <= weight <= 1 or temperature <= 0:
            raise ValueError("distillation: weight lies in 0…1, temperature is more than 0")
        if max_size is not None and max_size < 32:
            raise ValueError("distillation: max_size is a side in pixels, 32 or more")
        self.teachers = teachers
        self.weight = weight
        self.temperature = temperature
        self.max_size = max_size
        self._models: list[CarClassifier] = []

    def read(self, class_names: Sequence[str]) -> None:
        """Read the teachers, once.

        Raises:
            ValueError: no such checkpoint, or one with other classes.
        """
        from lightning_train.trained import load_classifier  # needs the classifier, which needs us

        if self._models:
            return
        for path in self.teachers:
            model = load_classifier(path)
            if model.class_names != list(class_names):
                raise ValueError(
                    f"the teacher {path} knows other classes than the data set: train one on it"
                )
            self._models.append(model.requires_grad_(False))

    def prepare(self, device: torch.device, compile: bool = False) -> None:
        """Move the teachers to the device, and compile them if the student is compiled too."""
        for model in self._models:
            model.to(device)
            if compile:
                model.network.compile(dynamic=False)

    @torch.no_grad()
    def teach(self, images: Tensor) -> Tensor:
        """The teachers' mean softened probabilities [N, C] of pixels [N, 3, H, W].

        Each teacher gets the view at the size it was made for (`max_size` at most), and normalised
        its own way.
        """
        if images.dtype == torch.uint8:
            images = images.float() / 255
        views = {images.shape[-1]: images}
        answers = []
        for model in self._models:
            side = min(model.hparams["size"], self.max_size or model.hparams["size"])
            if side not in views:
                views[side] = nn.functional.interpolate(
                    images, (side, side), mode="bilinear", antialias=True
                )
            # Not through the model's `forward`, which would pass a compiled network by.
            logits = model.network(model.normalize(views[side]))
            answers.append((logits.float() / self.temperature).softmax(1))
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
