"""Fit the detector that says whether there is a car at all (`handler.car_detector`)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from handler.car_detector import CarDetector
from lightning_train.linear_probe import fit_logistic

__all__ = ["fit_car_detector"]

Features = NDArray[np.float32]

# Of cars, those whose score is enough to believe in a car that the worker found by itself.
_KEEP_FOUND = 0.98


def fit_car_detector(
    cars: Features, others: Features, held_out_cars: Features, keep: float
) -> CarDetector:
    """Fit it to photos of cars and of other things.

    Args:
        cars: [N, F], features of photos of cars.
        others: [M, F], of photos of anything else.
        held_out_cars: [K, F], of other photos of cars: they set the operating points, which
            would be too strict on those fitted.
        keep: least share of held-out cars that shall be taken for cars.
    """
    features = np.concatenate([cars, others])
    weights, bias = fit_logistic(features, np.arange(len(features)) < len(cars), decay=0.1)
    scores = held_out_cars @ weights
    # Never stricter than even odds: where few cars are held out, their lowest score says little.
    operating_point = min(float(np.quantile(scores, 1 - keep)), -bias)
    found_from = float(np.quantile(scores, 1 - _KEEP_FOUND)) - operating_point
    return CarDetector(weights, -operating_point, max(found_from, 0.0))
