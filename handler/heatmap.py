"""Where the network looked: class-activation maps (Zhou et al. 2016, arXiv 1512.04150).

The network ends in an average over the picture and a linear layer, so a class's logit is the mean
of a map: that class's weights times the features at each position. No gradients are needed.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from handler.region import Box

__all__ = ["Heatmap", "class_map"]

# Longer side of the overlay in pixels: enough for what was a grid of 7×7 values.
_OVERLAY_SIDE = 112
# From transparent through yellow to red: RGB at value 0, 1/2 and 1.
_COLOURS = ((255, 255, 0), (255, 190, 0), (225, 0, 0))
_OPACITY = 190


def _palette() -> tuple[bytes, bytes]:
    """RGB and opacity of each of the 256 values."""
    values = np.linspace(0, 1, 256)
    channels = [np.interp(values, (0, 0.5, 1), channel) for channel in zip(*_COLOURS, strict=True)]
    colours = np.stack(channels, axis=1).round().astype(np.uint8)
    return colours.tobytes(), (values**1.5 * _OPACITY).astype(np.uint8).tobytes()


_PALETTE, _TRANSPARENCY = _palette()


def class_map(
    weights: NDArray[np.floating[Any]], feature_map: NDArray[np.float32], class_id: int
) -> NDArray[np.float32]:
    """How much each position speaks for a class: [h, w], whose mean is its logit less its bias.

    Args:
        weights: [C, F], of the last linear layer.
        feature_map: [F, h, w].
        class_id: 0 to C - 1.
    """
    row = weights[class_id].astype(np.float32)
    result: NDArray[np.float32] = np.tensordot(row, feature_map, 1)
    return result


@dataclass(frozen=True, slots=True)
class Heatmap:
    """What spoke for a class, and where on the photo.

    Attributes:
        class_id: the class.
        grid: [h, w], from `class_map`.
        box: the part of the photo that the grid covers.
        size: of the whole upright photo in pixels, (width, height).
    """

    class_id: int
    grid: NDArray[np.float32]
    box: Box
    size: tuple[int, int]

    @property
    def peak(self) -> tuple[float, float]:
        """Where it speaks most for the class, in pixels of the photo: x, y."""
        height, width = self.grid.shape
        row, column = divmod(int(self.grid.argmax()), width)
        return (
            self.box.left + (column + 0.5) / width * self.box.width,
            self.box.top + (row + 0.5) / height * self.box.height,
        )

    def overlay(self) -> bytes:
        """A small PNG to stretch over the upright photo; see-through where nothing was seen."""
        width, height = self.size
        scale = _OVERLAY_SIDE / max(width, height)
        positive = np.maximum(self.grid, 0)
        values = Image.fromarray(255 * positive / max(float(positive.max()), 1e-6))
        image = Image.new("P", (max(1, round(scale * width)), max(1, round(scale * height))))
        # Some of a small region shall remain, also at the photo's right or lower edge.
        left = min(round(scale * self.box.left), image.width - 1)
        top = min(round(scale * self.box.top), image.height - 1)
        right = max(round(scale * self.box.right), left + 1)
        bottom = max(round(scale * self.box.bottom), top + 1)
        part = values.resize((right - left, bottom - top), Image.Resampling.BICUBIC)
        pixels = np.asarray(part).clip(0, 255).astype(np.uint8)
        image.putpalette(_PALETTE)
        image.paste(Image.fromarray(pixels), (left, top))
        file = io.BytesIO()
        # The quickest compression: it takes a millisecond, and a tenth more bytes.
        image.save(file, "PNG", transparency=_TRANSPARENCY, compress_level=1)
        return file.getvalue()

    def to_json(self) -> dict[str, Any]:
        """As plain data: the grid's rows from the top, and the overlay in base64."""
        return {
            "class_id": self.class_id,
            "grid": [[round(value, 3) for value in row] for row in self.grid.tolist()],
            "png": base64.b64encode(self.overlay()).decode("ascii"),
        }
