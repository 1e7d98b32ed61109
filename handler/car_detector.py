"""Is there a car at all? A linear detector on the features that the classifier has anyway.

The classifier's own scores cannot tell: they ask which car, and something has to win. Its features
can, since ImageNet taught them what vehicles look like.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from handler.archive import read_arrays

__all__ = ["CarDetector"]


@dataclass(frozen=True, slots=True)
class CarDetector:
    """Score of a photo: weights · (feature map averaged over the picture) + bias; a car from 0 on.

    Attributes:
        weights: [F].
        bias: the operating point is in it.
        found_from: score from which on a part of a photo that the worker chose itself shows a car.
            Stricter than 0: who looks at several parts must not believe the first that might.
    """

    weights: NDArray[np.float32]
    bias: float
    found_from: float = 0.0

    def scores(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores [N] of features [N, F], a feature map's mean over height and width."""
        result: NDArray[np.float32] = features @ self.weights + np.float32(self.bias)
        return result

    def write(self, path: str | Path) -> None:
        """Write a file that `read` reads back unchanged."""
        np.savez(path, weights=self.weights, bias=self.bias, found_from=self.found_from)

    @classmethod
    def read(cls, path: str | Path) -> CarDetector:
        """Read a detector.

        Raises:
            ArchiveError: the file is none.
        """
        weights, bias, found_from = read_arrays(Path(path), "weights", "bias", "found_from")
        return cls(weights.astype(np.float32).reshape(-1), float(bias), float(found_from))
