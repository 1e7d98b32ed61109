"""Augmentation without tuning: TrivialAugment and RandAugment, drawn per sample.

kornia has both (`kornia.augmentation.auto`), but draws the operations once per batch. Here each
sample draws its own, and each operation, kornia's own or one warp for all that move pixels, is
computed once for all the samples that drew it.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from kornia import enhance
from torch import Tensor

from lightning_train.callbacks.augmentation.base import ImageAugmentation, beside, warp

__all__ = ["RandAugmentation", "TrivialAugmentation"]

_LEVELS = 30
# Of pixels that stay where they are: images [k, 3, H, W] and signed strengths [k] to images.
_COLOR: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "auto_contrast": lambda images, _: enhance.normalize_min_max(images),
    "equalize": lambda images, _: enhance.equalize(images),
    "brightness": lambda images, s: enhance.adjust_brightness_accumulative(images, 1 + s),
    "contrast": lambda images, s: enhance.adjust_contrast_with_mean_subtraction(images, 1 + s),
    "color": lambda images, s: enhance.adjust_saturation_with_gray_subtraction(images, 1 + s),
    "sharpness": lambda images, s: enhance.sharpness(images, 1 + s),
    "solarize": lambda images, s: enhance.solarize(images, 1 - s.abs()),
    "posterize": lambda images, s: enhance.posterize(images, 8 - s.abs().round().int()),
}
_MOVING = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
_OPERATIONS = ("identity", *_COLOR, *_MOVING)


@dataclass(frozen=True)
class _Strengths:
    """What each operation does at full strength."""

    factor: float  # of brightness, contrast, color, sharpness: 1 ± factor
    bits: int  # that posterize takes away
    degrees: float
    shear: float
    shift: float  # as a fraction of the side

    def of(self, operation: str) -> float:
        return {
            "rotate": math.radians(self.degrees),
            "shear_x": self.shear,
            "shear_y": self.shear,
            "translate_x": 2 * self.shift,  # the side runs from −1 to 1
            "translate_y": 2 * self.shift,
            "posterize": float(self.bits),
            "solarize": 1.0,
        }.get(operation, self.factor)


# The two spaces of the TrivialAugment paper, as torchvision has them.
_STANDARD = _Strengths(factor=0.9, bits=4, degrees=30, shear=0.3, shift=150 / 331)
_WIDE = _Strengths(factor=0.99, bits=6, degrees=135, shear=0.99, shift=32 / 224)


class _Policy(ImageAugmentation):
    """Operations from a fixed list, by an operation and a signed strength for each sample."""

    strengths: _Strengths

    @abstractmethod
    def levels(self, count: int) -> Tensor:
        """Levels [count], 0…30, of an operation."""

    def _round(self, images: Tensor) -> Tensor:
        """One operation for each sample."""
        count = len(images)
        drawn = torch.randint(len(_OPERATIONS), (count,))
        signs = torch.randint(2, (count,)) * 2 - 1
        full = torch.tensor([self.strengths.of(name) for name in _OPERATIONS])[drawn]
        strengths = full * signs * self.levels(count) / _LEVELS
        result = images.clone()
        for number, name in enumerate(_OPERATIONS):
            rows = (drawn == number).nonzero().flatten()
            if name in _COLOR and len(rows):
                index = beside(rows, images)
                some = beside(strengths[rows], images)
                # clamp: equalize wants 0…1 exactly.
                result[index] = _COLOR[name](images[index].clamp(0, 1), some)
        rows = (drawn >= _OPERATIONS.index(_MOVING[0])).nonzero().flatten()
        if len(rows):
            index = beside(rows, images)
            result[index] = warp(images[index], _matrices(drawn[rows], strengths[rows]))
        return result


def _matrices(drawn: Tensor, strengths: Tensor) -> Tensor:
    """Maps [k, 3, 3] from the result to the photo, both −1…1, for operations [k] of `_MOVING`."""
    angle, shear_x, shear_y, shift_x, shift_y = (
        strengths * (drawn == _OPERATIONS.index(name)) for name in _MOVING
    )
    matrices = torch.eye(3).repeat(len(drawn), 1, 1)
    matrices[:, 0, 0] = matrices[:, 1, 1] = angle.cos()
    matrices[:, 0, 1] = shear_x - angle.sin()
    matrices[:, 1, 0] = shear_y + angle.sin()
    matrices[:, 0, 2] = shift_x
    matrices[:, 1, 2] = shift_y
    return matrices


class TrivialAugmentation(_Policy):
    """TrivialAugment: one operation at one strength, both uniform (arXiv 2103.10158).

    Müller and Hutter's augmentation has nothing to tune and did as well as those that have. The
    operations are identity, auto contrast, equalize, brightness, contrast, color, sharpness,
    solarize, posterize, rotate, shear x and y, translate x and y.

    Args:
        wide: the paper's wide space (rotation to 135°, shear to 0.99, …) rather than RandAugment's.
    """

    def __init__(self, wide: bool = True) -> None:
        self.strengths = _WIDE if wide else _STANDARD

    def levels(self, count: int) -> Tensor:
        """Any level."""
        return torch.randint(_LEVELS + 1, (count,))

    def transform(self, images: Tensor) -> Tensor:
        """One operation for each sample."""
        return self._round(images)


class RandAugmentation(_Policy):
    """RandAugment: some operations at one strength (Cubuk et al. 2020, arXiv 1909.13719).

    The operations are those of `TrivialAugmentation`.

    Args:
        operations: how many, one after another.
        magnitude: their strength, 0…30.
    """

    def __init__(self, operations: int = 2, magnitude: int = 9) -> None:
        if operations < 1 or not 0 <= magnitude <= _LEVELS:
            raise ValueError(
                f"RandAugment takes operations >= 1 and a magnitude of 0…{_LEVELS}; got "
                f"operations={operations}, magnitude={magnitude}"
            )
        self.strengths = _STANDARD
        self.operations = operations
        self.magnitude = magnitude

    def levels(self, count: int) -> Tensor:
        """The one level."""
        return torch.full((count,), self.magnitude)

    def transform(self, images: Tensor) -> Tensor:
        """Some operations for each sample, one after another."""
        for _ in range(self.operations):
            images = self._round(images)
        return images
