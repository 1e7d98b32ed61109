"""The one definition of how a photo becomes network input.

Training, calibration, evaluation and the worker all use it: a model that sees other pixels in
service than in training loses accuracy without any error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["Preprocessing"]


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Squash a photo to a square of 8-bit RGB.

    Stanford Cars crops are squashed (aspect ratio not kept), so photos are too. Mean and standard
    deviation are applied inside the network's graph, where they cost nothing.

    Attributes:
        size: side of the square in pixels.
        mean: per RGB channel, for pixel values scaled to 0…1.
        std: per RGB channel, likewise.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """Resize an RGB image, antialiased.

        Returns:
            uint8 array [size, size, 3], RGB.
        """
        if image.size != (self.size, self.size):
            # A photo many times too big is first box-reduced (fast, exact) to at least 3x the size.
            image = image.resize(
                (self.size, self.size), Image.Resampling.BILINEAR, reducing_gap=3.0
            )
        return np.asarray(image, dtype=np.uint8)

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Preprocessing:
        """Read what `to_dict` wrote, also after a round trip through JSON."""
        return cls(size=int(data["size"]), mean=tuple(data["mean"]), std=tuple(data["std"]))
