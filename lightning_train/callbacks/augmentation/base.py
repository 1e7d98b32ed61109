"""What every augmentation shares: whole batches, on the device, every sample drawn by itself.

A callback changes `batch["image"]` before the training step sees it, and only there: Lightning
calls no other hook of it with a batch, so validation and test see the photos as they are. The
callbacks act in the order in which the configuration lists them.

All draws come from torch's global generator, on the CPU: the same seed gives the same augmentation
on every device, and the device never has to wait for a random number. (Noise of a whole image's
size is the exception: it is drawn where it is needed.)
"""

from __future__ import annotations

from abc import abstractmethod
from typing import cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from torch.nn import functional

from lightning_train.data import Batch

__all__ = [
    "Augmentation",
    "ImageAugmentation",
    "as_float",
    "beside",
    "check_probability",
    "chosen",
    "sampling_grid",
    "uniform",
    "warp",
]


class Augmentation(Callback):
    """Base of all augmentations: what `fit` does to a training batch."""

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Augment a training batch in place."""
        names = cast(list[str], pl_module.class_names)
        self.apply(batch, classes=len(names), epoch=trainer.current_epoch)

    @abstractmethod
    def apply(self, batch: Batch, classes: int, epoch: int = 0) -> None:
        """Augment a batch in place, as `fit` does.

        Args:
            batch: images, labels and maybe targets; entries are replaced, tensors not written to.
            classes: number of classes, for targets.
            epoch: for what changes from epoch to epoch.
        """


class ImageAugmentation(Augmentation):
    """Base of those that leave the label alone; a subclass says in `transform` what happens."""

    def apply(self, batch: Batch, classes: int, epoch: int = 0) -> None:
        """Replace the batch's images by augmented ones."""
        batch["image"] = self.augment(batch["image"])

    @torch.no_grad()
    def augment(self, images: Tensor) -> Tensor:
        """Augment images [N, 3, H, W], uint8 0…255 or float 0…1, into float 0…1."""
        # Warping in bf16 would lose pixels' positions, so autocast stays outside.
        with torch.autocast(images.device.type, enabled=False):
            return self.transform(as_float(images)).clamp(0, 1)

    @abstractmethod
    def transform(self, images: Tensor) -> Tensor:
        """Change float images [N, 3, H, W], 0…1, each by its own draw; never in place."""


def as_float(images: Tensor) -> Tensor:
    """Images as float 0…1, from uint8 0…255 or from float 0…1."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def check_probability(**values: float) -> None:
    """Raise ValueError for a probability outside 0…1, naming the argument."""
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is a probability, 0…1; got {value}")


def beside(values: Tensor, images: Tensor) -> Tensor:
    """Values drawn on the CPU, brought to the images' device without waiting for it."""
    return values.to(images.device, non_blocking=True)


def chosen(images: Tensor, probability: float) -> Tensor:
    """Indices [k] of a random part of the batch, on its device, each sample drawn by itself."""
    return beside((torch.rand(len(images)) < probability).nonzero().flatten(), images)


def uniform(count: int, low: float, high: float) -> Tensor:
    """Draws [count] from low…high, on the CPU."""
    return torch.empty(count).uniform_(low, high)


def sampling_grid(matrices: Tensor, images: Tensor) -> Tensor:
    """For every pixel of the result, where in the photo its colour lies.

    Args:
        matrices: homographies [N, 3, 3] from the result to the photo, in coordinates that run
            from −1 to 1 over the outer edges of the pixels.
        images: [N, 3, H, W]; only their size and device count.

    Returns:
        Coordinates (x, y) in the photo [N, H, W, 2], float32, on the images' device.
    """
    height, width = images.shape[-2:]
    device = images.device
    x = (torch.arange(width, device=device) + 0.5) * (2 / width) - 1
    y = (torch.arange(height, device=device) + 0.5) * (2 / height) - 1
    matrices = beside(matrices, images)[:, None, None]
    # x · first column + y · second + third: each [N, H, W, 3] once, without the points [N, HW, 3].
    points = x[None, None, :, None] * matrices[..., 0] + (
        y[None, :, None, None] * matrices[..., 1] + matrices[..., 2]
    )
    return points[..., :2] / points[..., 2:]


def warp(images: Tensor, matrices: Tensor) -> Tensor:
    """Resample images [N, 3, H, W] once, bilinearly; beyond its edges a photo is mirrored.

    Mirrored edges look more like a photo than black wedges do, and give no rotation away.
    """
    grid = sampling_grid(matrices, images)
    return functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
