"""The photo that is not a tight crop of a car."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from lightning_train.callbacks.augmentation.base import (
    ImageAugmentation,
    beside,
    check_probability,
    chosen,
    sampling_grid,
    uniform,
)

__all__ = ["FramingAugmentation"]

# The photo fades into its surroundings over this part of its side, so that there is no edge to
# learn; Stanford Cars' crops have about as much margin around the car.
_FADE = 0.06


class FramingAugmentation(ImageAugmentation):
    """The photo that is not a tight crop: margin around the car, off centre, another aspect ratio.

    Training photos are cut to the car's box and squashed to a square; a user's photo has streets
    and skies around the car, cuts a bumper off, and is squashed from another shape. So a photo
    becomes a smaller rectangle somewhere on a canvas of its size. The canvas goes on in the blurred
    colours of the photo's edges (sky above, road below), or shows clutter: an enlarged corner of
    another photo of the batch, a scene that is not to be looked at. List it after
    `ZoomAugmentation`, whose crop could otherwise miss the car.

    Args:
        probability: that a photo is reframed at all.
        scale: smallest and largest side of the photo as a fraction of the canvas's.
        aspect: widest change of the aspect ratio, either way.
        cut: largest part of the photo's width, or height, that may lie outside the canvas.
        clutter: probability that the canvas of a reframed photo shows clutter.
    """

    def __init__(
        self,
        probability: float = 0.5,
        scale: tuple[float, float] = (0.5, 1.0),
        aspect: float = 1.5,
        cut: float = 0.1,
        clutter: float = 0.3,
    ) -> None:
        check_probability(probability=probability, clutter=clutter)
        if not 0 < scale[0] <= scale[1] <= 1 or aspect < 1 or not 0 <= cut < 1:
            raise ValueError(
                "framing needs 0 < scale[0] <= scale[1] <= 1, aspect >= 1 and 0 <= cut < 1; got "
                f"scale={scale}, aspect={aspect}, cut={cut}"
            )
        self.probability = probability
        self.scale = scale
        self.aspect = aspect
        self.cut = cut
        self.clutter = clutter

    def transform(self, images: Tensor) -> Tensor:
        """Put each of the drawn photos on a canvas of its size."""
        index = chosen(images, self.probability)
        if not len(index):
            return images
        photos = images[index]
        grid = sampling_grid(self._matrices(len(index)), photos)
        framed = _sample(photos, grid)
        # Beyond the edge of this thumbnail go the colours of a sixteenth of the photo's side.
        canvas = _sample(functional.adaptive_avg_pool2d(photos, 16), grid)
        cluttered = chosen(photos, self.clutter)
        if len(cluttered):
            canvas[cluttered] = _foreign_corners(images, index[cluttered])
        inside = ((1 - grid.abs()) / (2 * _FADE)).clamp(0, 1).prod(-1).unsqueeze(1)
        return images.index_copy(0, index, torch.lerp(canvas, framed, inside))

    def _matrices(self, count: int) -> Tensor:
        """Affine maps [count, 3, 3] from the canvas to the photo, both −1…1."""
        scale = uniform(count, *self.scale)
        stretch = uniform(count, -math.log(self.aspect), math.log(self.aspect)).div(2).exp()
        sides = torch.stack([scale * stretch, scale / stretch], 1)
        sides /= sides.amax(1, keepdim=True).clamp(min=1)
        room = 1 - sides + 2 * self.cut * sides
        centres = room * torch.empty(count, 2).uniform_(-1, 1)
        return _affine(1 / sides, -centres / sides)


def _affine(scales: Tensor, shifts: Tensor) -> Tensor:
    """Matrices [k, 3, 3] of p ↦ scale · p + shift, from scales and shifts [k, 2] in x and y."""
    matrices = torch.diag_embed(functional.pad(scales, (0, 1), value=1.0))
    matrices[:, :2, 2] = shifts
    return matrices


def _sample(images: Tensor, grid: Tensor) -> Tensor:
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _foreign_corners(images: Tensor, index: Tensor) -> Tensor:
    """A corner of another photo than images[index], two to five times enlarged, [k, 3, H, W]."""
    count = len(index)
    steps = beside(torch.randint(1, max(len(images), 2), (count,)), images)
    others = images[(index + steps) % len(images)]
    zoom = uniform(count, 0.2, 0.5)[:, None].expand(-1, 2)
    corners = torch.randint(2, (count, 2)) * 2 - 1
    return _sample(others, sampling_grid(_affine(zoom, corners * (1 - zoom)), others))
