"""Where on the photo is the car? A linear map over the features that the classifier has anyway.

The network was trained on crops, and on a whole street scene it sees little. Its last feature map
still tells where the car is: each position's features are scored as car or surroundings, and the
box around what scores high is what to read again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from handler.archive import read_arrays
from handler.region import Box

__all__ = ["CarLocator"]

# The map (7×7 positions for a photo of 224 pixels) is enlarged by this for a finer outline.
_ENLARGED = 8
# Log-odds from which on a position belongs to the car.
_SURE = 2.0
# Of the found box's side, added on each: as much as the training crops have around their cars.
_MARGIN = 0.05


@dataclass(frozen=True, slots=True)
class CarLocator:
    """Log-odds of a position: weights · features + bias.

    Attributes:
        weights: [F].
        bias: of the log-odds.
    """

    weights: NDArray[np.float32]
    bias: float

    def score_map(self, feature_map: NDArray[np.float32]) -> NDArray[np.float32]:
        """Log-odds [h, w] that a position shows a car, from a feature map [F, h, w]."""
        result: NDArray[np.float32] = np.tensordot(self.weights, feature_map, 1)
        return result + np.float32(self.bias)

    def find(self, feature_map: NDArray[np.float32], view: Box) -> Box | None:
        """The box around the most prominent car in view.

        Args:
            feature_map: [F, h, w], of the part of the photo that was looked at.
            view: that part.

        Returns:
            A box within `view`, with a little margin; None where there is no car to be seen.
        """
        scores = self.score_map(feature_map)
        height, width = (_ENLARGED * side for side in scores.shape)
        enlarged = Image.fromarray(scores).resize((width, height), Image.Resampling.BICUBIC)
        outline = _best_component(np.asarray(enlarged) - _SURE)
        if outline is None:
            return None
        top, bottom, left, right = outline
        margin_y, margin_x = _MARGIN * (bottom - top), _MARGIN * (right - left)
        return Box(
            left=view.left + max(0, int(view.width * (left - margin_x) / width)),
            top=view.top + max(0, int(view.height * (top - margin_y) / height)),
            right=min(view.right, view.left + int(view.width * (right + margin_x) / width) + 1),
            bottom=min(view.bottom, view.top + int(view.height * (bottom + margin_y) / height) + 1),
        )

    def write(self, path: str | Path) -> None:
        """Write a file that `read` reads back unchanged."""
        np.savez(path, weights=self.weights, bias=self.bias)

    @classmethod
    def read(cls, path: str | Path) -> CarLocator:
        """Read a locator.

        Raises:
            ArchiveError: the file is none.
        """
        weights, bias = read_arrays(Path(path), "weights", "bias")
        return cls(weights.astype(np.float32).reshape(-1), float(bias))


def _best_component(scores: NDArray[np.floating[Any]]) -> tuple[int, int, int, int] | None:
    """Top, bottom, left, right of the 4-connected region above 0 with the greatest sum."""
    remaining = scores > 0
    best, outline = 0.0, None
    while remaining.any():
        region = np.zeros_like(remaining)
        region[np.unravel_index(np.flatnonzero(remaining)[0], remaining.shape)] = True
        size = 0
        while size != (size := int(np.count_nonzero(region))):
            grown = region.copy()
            grown[1:] |= region[:-1]
            grown[:-1] |= region[1:]
            grown[:, 1:] |= region[:, :-1]
            grown[:, :-1] |= region[:, 1:]
            region = grown & remaining
        remaining &= ~region
        total = float(scores[region].sum())
        if total > best:
            rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
            best = total
            outline = (int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1)
    return outline
