"""Two photos in one, and two labels: mixup and CutMix.

kornia's versions (`RandomMixUpV2`, `RandomCutMixV2`) decide once per batch, draw mixup's share
uniformly rather than from a Beta distribution, and return labels that can't be mixed twice; so
these are own code. Photos are mixed within a batch, under DDP within a process's part of it.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from torch.distributions import Beta
from torch.nn import functional

from lightning_train.callbacks.augmentation.base import (
    Augmentation,
    as_float,
    beside,
    check_probability,
)
from lightning_train.data import Batch

__all__ = ["CutMixAugmentation", "MixupAugmentation"]


class _Mixing(Augmentation):
    """Each sample draws a partner and its share; the targets follow."""

    def __init__(self, alpha: float, probability: float) -> None:
        check_probability(probability=probability)
        if alpha <= 0:
            raise ValueError(f"alpha has to be above 0; got {alpha} (probability: 0 turns it off)")
        self.alpha = alpha
        self.probability = probability

    @torch.no_grad()
    def apply(self, batch: Batch, classes: int, epoch: int = 0) -> None:
        """Mix the images, and write the targets [N, C]."""
        images = as_float(batch["image"])
        count = len(images)
        partners = beside(torch.randperm(count), images)
        shares = Beta(self.alpha, self.alpha).sample((count,))
        shares[torch.rand(count) >= self.probability] = 1.0
        batch["image"], shares = self.mix(images, images[partners], shares)
        target = batch.get("target")
        if target is None:
            target = functional.one_hot(batch["label"], classes).float()
        batch["target"] = torch.lerp(target[partners], target, beside(shares, images)[:, None])

    @abstractmethod
    def mix(self, images: Tensor, others: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        """Mix images with their partners.

        Args:
            images: [N, 3, H, W].
            others: the partners, likewise.
            shares: how much of each sample should stay, [N], 0…1, on the CPU.

        Returns:
            The mixed images, and how much of each sample did stay, [N], on the CPU.
        """


class MixupAugmentation(_Mixing):
    """mixup: a photo shines through another (Zhang et al. 2017, arXiv 1710.09412).

    Args:
        alpha: of the symmetric Beta distribution of the shares, drawn per sample: small values
            keep one of the two nearly whole, 1 is uniform.
        probability: that a photo is mixed at all.
    """

    def __init__(self, alpha: float = 0.2, probability: float = 1.0) -> None:
        super().__init__(alpha, probability)

    def mix(self, images: Tensor, others: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        """Interpolate every pixel."""
        return torch.lerp(others, images, beside(shares, images)[:, None, None, None]), shares


class CutMixAugmentation(_Mixing):
    """CutMix: a box of another photo lies on the photo (Yun et al. 2019, arXiv 1905.04899).

    The box may reach over the edge, so the target counts the pixels that were really pasted.

    Args:
        alpha: of the symmetric Beta distribution of the shares, drawn per sample.
        probability: that a photo gets a box at all.
    """

    def __init__(self, alpha: float = 1.0, probability: float = 0.5) -> None:
        super().__init__(alpha, probability)

    def mix(self, images: Tensor, others: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        """Paste a box of the drawn area around a drawn point."""
        rows, row_share = self._span(images.shape[2], shares)
        columns, column_share = self._span(images.shape[3], shares)
        box = beside(rows, images)[:, None, :, None] & beside(columns, images)[:, None, None, :]
        return torch.where(box, others, images), 1 - row_share * column_share

    @staticmethod
    def _span(length: int, shares: Tensor) -> tuple[Tensor, Tensor]:
        """Which of `length` places the boxes cover [N, length], and what part of them [N]."""
        half = (1 - shares).sqrt() * length / 2
        centre = torch.rand(len(shares)) * length
        places = torch.arange(length) + 0.5
        covered = (places - centre[:, None]).abs() < half[:, None]
        return covered, covered.float().mean(1)
