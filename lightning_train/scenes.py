"""Whole scenes with a car somewhere on them, composed of crops and of photos of anything else.

No data set here has scenes with boxes, so they are made: what the worker's search for the car is
fitted on and measured on. They are easier than a street, where other cars stand around.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from handler.region import Box
from lightning_train.data import Sample, load_crop

__all__ = ["Scene", "compose_scene"]

# Width over height of the median box of Stanford Cars: its crops come squashed to squares.
_MEDIAN_ASPECT = 1.86


@dataclass(frozen=True, slots=True)
class Scene:
    """A car in surroundings.

    Attributes:
        image: RGB.
        box: where the car is.
        class_id: which one.
    """

    image: Image.Image
    box: Box
    class_id: int


def compose_scene(
    sample: Sample,
    backgrounds: Sequence[Path],
    scale: float,
    generator: np.random.Generator,
    size: tuple[int, int] = (1280, 960),
    input_side: int = 224,
) -> Scene:
    """Put a car, and every other time a piece of something else, somewhere on a background.

    Args:
        sample: the car.
        backgrounds: photos without any; at least one.
        scale: width of the car over that of the scene, 0…1.
        generator: of all that is random.
        size: of the scene in pixels, (width, height).
        input_side: of the network's input in pixels: the car's photo has at least that.
    """
    scene = ImageOps.fit(_open(backgrounds, generator), size, Image.Resampling.BICUBIC)
    car = load_crop(sample, input_side)
    aspect = _MEDIAN_ASPECT if car.width == car.height else car.width / car.height
    width = min(round(scale * size[0]), round(size[1] * aspect))
    box = _somewhere(size, (width, round(width / aspect)), generator)
    _paste(scene, car, box)
    if generator.random() < 0.5:  # so that an edge of something pasted does not mean a car
        side = round(generator.uniform(0.2, 0.5) * size[0])
        other = _somewhere(size, (side, round(side / generator.uniform(0.7, 2))), generator)
        if not _overlap(box, other):
            _paste(scene, _open(backgrounds, generator), other)
    return Scene(scene, box, sample.class_id)


def _open(photos: Sequence[Path], generator: np.random.Generator) -> Image.Image:
    return load_crop(Sample(photos[int(generator.integers(len(photos)))], 0), 512)


def _somewhere(size: tuple[int, int], part: tuple[int, int], generator: np.random.Generator) -> Box:
    width, height = max(1, min(part[0], size[0])), max(1, min(part[1], size[1]))
    left = int(generator.integers(size[0] - width + 1))
    top = int(generator.integers(size[1] - height + 1))
    return Box(left, top, left + width, top + height)


def _overlap(a: Box, b: Box) -> bool:
    apart = a.right <= b.left or b.right <= a.left or a.bottom <= b.top or b.bottom <= a.top
    return not apart


def _paste(scene: Image.Image, part: Image.Image, box: Box) -> None:
    """With soft edges."""
    edge = max(2, box.width // 40)
    mask = Image.new("L", (box.width, box.height))
    mask.paste(255, (edge, edge, max(edge, box.width - edge), max(edge, box.height - edge)))
    soft = mask.filter(ImageFilter.GaussianBlur(edge / 1.5))
    resized = part.resize((box.width, box.height), Image.Resampling.BICUBIC)
    scene.paste(resized, (box.left, box.top), soft)
