"""Photos for augmentations, and one augmentation of them."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_train.callbacks import Augmentation
from lightning_train.data import Batch


def photos(count: int, height: int = 32, width: int = 32) -> Tensor:
    """Different photos, smooth enough to survive a warp, [N, 3, H, W] uint8."""
    rough = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(rough, (height, width), mode="bicubic")
    return (smooth.clamp(0, 1) * 255).round().byte()


def augmented(augmentation: Augmentation, images: Tensor, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    batch: Batch = {
        "image": images,
        "label": torch.arange(len(images), device=images.device),
    }
    augmentation.apply(batch, classes=len(images))
    return batch["image"]
