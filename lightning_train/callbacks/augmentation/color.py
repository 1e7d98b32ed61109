"""Another light and another paint."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_train.callbacks.augmentation.base import (
    ImageAugmentation,
    beside,
    check_probability,
    uniform,
)

__all__ = ["ColorAugmentation"]

# RGB to YIQ: luma, and the plane of colours, in which hue is an angle and saturation a radius.
_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


class ColorAugmentation(ImageAugmentation):
    """Another light and another paint: brightness, contrast, saturation, hue, grey.

    All of them are linear in a pixel's colours, so each photo's draw is one 3 × 3 matrix: a tenth
    of the time of kornia's ColorJitter, which goes through HSV (and draws the order of the changes
    once per batch).

    Args:
        brightness: largest relative change either way.
        contrast: likewise.
        saturation: likewise.
        hue: largest turn of the colour circle either way, 0…0.5.
        grayscale: probability of losing all colour.
        probability: of the other changes, together.
    """

    def __init__(
        self,
        brightness: float = 0.3,
        contrast: float = 0.3,
        saturation: float = 0.3,
        hue: float = 0.05,
        grayscale: float = 0.05,
        probability: float = 0.8,
    ) -> None:
        check_probability(grayscale=grayscale, probability=probability)
        for name, value, limit in (
            ("brightness", brightness, 1),
            ("contrast", contrast, 1),
            ("saturation", saturation, 1),
            ("hue", hue, 0.5),
        ):
            if not 0 <= value <= limit:
                raise ValueError(f"{name} is the largest change, 0…{limit}; got {value}")
        self.brightness = brightness
        self.contrast = contrast
        self.saturation = saturation
        self.hue = hue
        self.grayscale = grayscale
        self.probability = probability

    def transform(self, images: Tensor) -> Tensor:
        """Change the colours."""
        count = len(images)
        changed = (torch.rand(count) < self.probability).float()
        brightness, contrast, saturation = (
            1 + changed * uniform(count, -limit, limit)
            for limit in (self.brightness, self.contrast, self.saturation)
        )
        saturation = saturation * (torch.rand(count) >= self.grayscale)
        angle = 2 * math.pi * changed * uniform(count, -self.hue, self.hue)
        matrices = torch.zeros(count, 3, 3)
        matrices[:, 0, 0] = 1
        matrices[:, 1, 1] = matrices[:, 2, 2] = saturation * angle.cos()
        matrices[:, 2, 1] = saturation * angle.sin()
        matrices[:, 1, 2] = -matrices[:, 2, 1]
        matrices = torch.linalg.inv(_YIQ) @ matrices @ _YIQ
        matrices *= (brightness * contrast)[:, None, None]
        # Contrast is relative to the photo's mean luma.
        luma = images.mean((2, 3)) @ beside(_YIQ[0], images)
        offset = luma * beside(brightness * (1 - contrast), images)
        pixels = images.flatten(2)
        offset = offset[:, None, None].expand(-1, 3, 1)
        return torch.baddbmm(offset, beside(matrices, images), pixels).view_as(images)
