"""Another point of view, another crop: flip, rotation, perspective, zoom, training size."""

from __future__ import annotations

import math

import kornia.augmentation as kaug
import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_train.callbacks.augmentation.base import ImageAugmentation, check_probability, warp
from lightning_train.data import Batch

__all__ = ["GeometricAugmentation", "ZoomAugmentation"]


class GeometricAugmentation(ImageAugmentation):
    """Another point of view: flip, rotation, perspective.

    kornia draws a matrix of each kind for each sample; their product warps the photo once, which
    costs less, and blurs less, than one warp after another.

    Args:
        flip: probability of a mirror image.
        degrees: largest rotation either way.
        perspective: strength of the perspective warp, 0…1: how far a corner may move inwards, as
            a fraction of half the side.
        probability: of rotation and of perspective, each.
    """

    def __init__(
        self,
        flip: float = 0.5,
        degrees: float = 8.0,
        perspective: float = 0.2,
        probability: float = 0.5,
    ) -> None:
        check_probability(flip=flip, probability=probability)
        self._draws = (
            kaug.RandomHorizontalFlip(p=flip),
            kaug.RandomRotation(degrees, p=probability),
            kaug.RandomPerspective(perspective, p=probability),
        )

    def transform(self, images: Tensor) -> Tensor:
        """Draw one homography a sample and warp by it."""
        height, width = images.shape[-2:]
        # kornia asks for images, but reads their shape only: matrices of 3 × 3 belong to the CPU.
        stand_in = torch.empty(()).expand(images.shape)
        matrices = torch.eye(3).expand(len(images), 3, 3)
        for draw in self._draws:
            parameters = draw.forward_parameters(images.shape)
            matrix = draw.generate_transformation_matrix(stand_in, parameters, draw.flags)
            matrices = matrix @ matrices
        # From pixels, whose centres are whole numbers, to −1…1 over the pixels' outer edges.
        scale = torch.tensor(
            [[2 / width, 0, 1 / width - 1], [0, 2 / height, 1 / height - 1], [0, 0, 1]]
        )
        return warp(images, scale @ torch.linalg.inv(scale @ matrices))


class ZoomAugmentation(ImageAugmentation):
    """A random part of the photo, resized: also the callback that sets the training size.

    Training starts with small photos, which are cheap and regularise, and ends with large ones
    (progressive resizing, as in fastai's entry to DAWNBench; Tan and Le 2021, arXiv 2104.00298).

    Args:
        sizes: side in pixels by the epoch from which it holds, e.g. {0: 128, 6: 192}, or by the
            part of the run (`max_epochs`) that is over, e.g. {0: 128, 0.4: 192}. A network under
            `torch.compile` is compiled anew for every size.
        min_area: smallest part of the photo's area that is kept.
        aspect: widest aspect ratio of the part, either way.
    """

    def __init__(
        self, sizes: dict[int | float, int], min_area: float = 0.35, aspect: float = 1.33
    ) -> None:
        if 0 not in sizes:
            raise ValueError(f"sizes needs an entry for epoch 0, e.g. {{0: 224}}; got {sizes}")
        if any(first < 0 or (first > 1 and first != int(first)) for first in sizes):
            raise ValueError(f"sizes goes by epochs, or by parts of the run, 0…1; got {sizes}")
        if not 0 < min_area <= 1 or aspect < 1:
            raise ValueError(
                f"min_area is a part of the photo, 0…1, and aspect at least 1; got {min_area} and "
                f"{aspect}"
            )
        self.sizes = dict(sorted(sizes.items()))
        self._by_epoch = self._first_epochs(0)
        # The same photos either way: one by one, or in one warp of the batch, which for 128 photos
        # is 411 operations to launch on a GPU instead of 1036, but takes longer on a CPU.
        self._crops = {
            (size, on_cpu): kaug.RandomResizedCrop(
                (size, size),
                scale=(min_area, 1.0),
                ratio=(1 / aspect, aspect),
                cropping_mode="slice" if on_cpu else "resample",
            )
            for size in set(sizes.values())
            for on_cpu in (True, False)
        }
        self._size = self.sizes[0]

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Learn which epochs the parts of the run are.

        Raises:
            ValueError: there are such parts, and the run has no end.
        """
        if stage != "fit":
            return
        parts = [first for first in self.sizes if 0 < first < 1]
        if parts and (trainer.max_epochs is None or trainer.max_epochs < 1):
            raise ValueError(f"sizes at {parts} of the run need its length: set trainer.max_epochs")
        self._by_epoch = self._first_epochs(trainer.max_epochs or 0)

    def sizes_of(self, epochs: int) -> list[int]:
        """The size of every epoch of a run of so many, [epochs]."""
        first_epochs = self._first_epochs(epochs)
        return [_due(first_epochs, epoch) for epoch in range(epochs)]

    def _first_epochs(self, epochs: int) -> dict[int, int]:
        """Size by the first epoch that has it: the first that begins when the part is over."""
        return {
            math.ceil(first * epochs - 1e-9) if 0 < first < 1 else int(first): size
            for first, size in self.sizes.items()
        }

    def size(self, epoch: int) -> int:
        """Side in pixels that an epoch is due; where parts of a run count, of the run set up."""
        return _due(self._by_epoch, epoch)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the size."""
        pl_module.log("train/size", float(self.size(trainer.current_epoch)), sync_dist=True)

    def apply(self, batch: Batch, classes: int, epoch: int = 0) -> None:
        """Take the size that the epoch is due, also when a run is resumed in its middle."""
        self._size = self.size(epoch)
        super().apply(batch, classes, epoch)

    def transform(self, images: Tensor) -> Tensor:
        """Cut and resize."""
        cropped: Tensor = self._crops[self._size, images.device.type == "cpu"](images)
        return cropped


def _due(by_epoch: dict[int, int], epoch: int) -> int:
    return by_epoch[max(first for first in by_epoch if first <= epoch)]
