"""The photo that is not sharp: few pixels, blur, sensor noise, compression."""

from __future__ import annotations

import math

import torch
from kornia.enhance import jpeg_codec_differentiable
from kornia.filters import gaussian_blur2d
from torch import Tensor
from torch.nn import functional

from lightning_train.callbacks.augmentation.base import (
    ImageAugmentation,
    beside,
    check_probability,
    chosen,
    uniform,
)

__all__ = ["QualityAugmentation"]


class QualityAugmentation(ImageAugmentation):
    """The photo that is not sharp, in the order in which a photo suffers.

    Each of the four effects is drawn per sample, and computed for the drawn samples only.

    Args:
        probability: of each effect.
        resolution: fewest pixels a side, as a fraction of the photo's, that it is shrunk to and
            enlarged from. (Four steps, so that each is one resize for its samples.)
        blur: largest standard deviation of the blur, as a fraction of the photo's side.
        noise: largest standard deviation of the sensor's noise; white is 1.
        jpeg: lowest quality of the JPEG compression, 1…100; the highest is 95.
    """

    def __init__(
        self,
        probability: float = 0.2,
        resolution: float = 0.4,
        blur: float = 0.008,
        noise: float = 0.05,
        jpeg: int = 25,
    ) -> None:
        check_probability(probability=probability)
        if not 0 < resolution <= 1 or blur < 0 or noise < 0 or not 1 <= jpeg <= 95:
            raise ValueError(
                "quality needs 0 < resolution <= 1, blur and noise >= 0 and 1 <= jpeg <= 95; got "
                f"resolution={resolution}, blur={blur}, noise={noise}, jpeg={jpeg}"
            )
        self.probability = probability
        self.resolution = resolution
        self.blur = blur
        self.noise = noise
        self.jpeg = jpeg

    def transform(self, images: Tensor) -> Tensor:
        """Draw and apply the effects one after another."""
        for effect in (self._shrink, self._blur, self._add_noise, self._compress):
            index = chosen(images, self.probability)
            if len(index):
                images = images.index_copy(0, index, effect(images[index]))
        return images

    def _shrink(self, images: Tensor) -> Tensor:
        side = images.shape[-2:]
        steps = torch.randint(4, (len(images),))
        shrunk = images.clone()
        for step in range(4):
            rows = beside((steps == step).nonzero().flatten(), images)
            if len(rows):
                factor = self.resolution + (1 - self.resolution) * step / 4
                small = [max(1, round(length * factor)) for length in side]
                few = functional.interpolate(
                    images[rows], small, mode="bilinear", antialias=True, align_corners=False
                )
                shrunk[rows] = functional.interpolate(
                    few, side, mode="bilinear", align_corners=False
                )
        return shrunk

    def _blur(self, images: Tensor) -> Tensor:
        side = min(images.shape[-2:])
        # 3 standard deviations either way; a kernel can't be wider than the photo.
        reach = min(max(1, math.ceil(3 * self.blur * side)), side // 2)
        # Left on the CPU, where kornia checks it; it would wait for the device otherwise.
        sigma = uniform(len(images), 0.1, max(0.1, self.blur * side))
        blurred: Tensor = gaussian_blur2d(
            images, (2 * reach + 1, 2 * reach + 1), sigma[:, None].expand(-1, 2)
        )
        return blurred

    def _add_noise(self, images: Tensor) -> Tensor:
        sigma = beside(uniform(len(images), 0, self.noise), images)
        # The next step is 8-bit, so what leaves 0…1 is lost here.
        return torch.addcmul(images, sigma[:, None, None, None], torch.randn_like(images)).clamp(
            0, 1
        )

    def _compress(self, images: Tensor) -> Tensor:
        quality = uniform(len(images), self.jpeg, 95)  # on the CPU, as above
        compressed: Tensor = jpeg_codec_differentiable(images, quality)
        return compressed
