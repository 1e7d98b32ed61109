"""Augmentation as callbacks: whole batches, on the device, every sample drawn by itself.

Each callback changes `batch["image"]` before the training step sees it, in the order in which the
configuration lists them. kornia draws the parameters of every sample independently (torchvision's
transforms would draw once per batch).
"""

from __future__ import annotations

from typing import cast

import kornia.augmentation as kaug
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn

from lightning_train.data import Batch

__all__ = ["Augmentation", "ColorAugmentation", "GeometricAugmentation", "ZoomAugmentation"]


class Augmentation(Callback):
    """Base of the augmentations: a module that maps float images 0…1 [N, 3, H, W] to their like."""

    transform: nn.Module

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Replace the batch's images by augmented ones."""
        batch["image"] = self.augment(batch["image"])

    @torch.no_grad()
    def augment(self, images: Tensor) -> Tensor:
        """Augment images [N, 3, H, W], uint8 0…255 or float 0…1, into float 0…1."""
        if images.dtype == torch.uint8:
            images = images.float() / 255
        # Warping in bf16 would lose pixels' positions, so autocast stays outside.
        with torch.autocast(images.device.type, enabled=False):
            return cast(Tensor, self.transform(images))


class GeometricAugmentation(Augmentation):
    """Another point of view: flip, rotation, perspective.

    Args:
        flip: probability of a mirror image.
        degrees: largest rotation either way.
        perspective: strength of the perspective warp, 0…1.
        probability: of rotation and of perspective, each.
    """

    def __init__(
        self,
        flip: float = 0.5,
        degrees: float = 8.0,
        perspective: float = 0.2,
        probability: float = 0.5,
    ) -> None:
        self.transform = nn.Sequential(
            kaug.RandomHorizontalFlip(p=flip),
            kaug.RandomRotation(degrees, p=probability),
            kaug.RandomPerspective(perspective, p=probability),
        )


class ZoomAugmentation(Augmentation):
    """A random part of the photo, resized: also the callback that sets the training size.

    Args:
        sizes: side in pixels by the epoch from which it holds, e.g. {0: 128, 6: 192}: small photos
            first are cheap and regularise.
        min_area: smallest part of the photo's area that is kept.
        aspect: widest aspect ratio of the part, either way.
    """

    def __init__(self, sizes: dict[int, int], min_area: float = 0.35, aspect: float = 1.33) -> None:
        if 0 not in sizes:
            raise ValueError(f"sizes needs an entry for epoch 0, e.g. {{0: 224}}; got {sizes}")
        self.sizes = dict(sorted(sizes.items()))
        self._crops = {
            size: kaug.RandomResizedCrop(
                (size, size), scale=(min_area, 1.0), ratio=(1 / aspect, aspect)
            )
            for size in set(sizes.values())
        }
        self.transform = self._crops[self.sizes[0]]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the size that this epoch is due."""
        size = [s for epoch, s in self.sizes.items() if epoch <= trainer.current_epoch][-1]
        self.transform = self._crops[size]
        pl_module.log("train/size", float(size))


class ColorAugmentation(Augmentation):
    """Another light and another paint: brightness, contrast, saturation, hue, grey.

    Args:
        brightness: largest relative change either way.
        contrast: likewise.
        saturation: likewise.
        hue: largest turn of the colour circle, 0…0.5.
        grayscale: probability of losing all colour.
    """

    def __init__(
        self,
        brightness: float = 0.3,
        contrast: float = 0.3,
        saturation: float = 0.3,
        hue: float = 0.05,
        grayscale: float = 0.05,
    ) -> None:
        self.transform = nn.Sequential(
            kaug.ColorJiggle(brightness, contrast, saturation, hue, p=0.8),
            kaug.RandomGrayscale(p=grayscale),
        )
