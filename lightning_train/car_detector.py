"""Fit the detector that says whether there is a car at all (`handler.car_detector`)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from handler.car_detector import CarDetector

__all__ = ["fit_car_detector"]

Features = NDArray[np.float32]


def fit_car_detector(
    cars: Features, others: Features, held_out_cars: Features, keep: float, decay: float = 0.1
) -> CarDetector:
    """Logistic regression on standardised features, both sides weighing the same.

    Args:
        cars: [N, F], features of photos of cars.
        others: [M, F], of photos of anything else.
        held_out_cars: [K, F], of other photos of cars: they set the operating point, which
            would be too strict on those fitted.
        keep: least share of held-out cars that shall be taken for cars.
        decay: of the squared weights.
    """
    features = np.concatenate([cars, others]).astype(np.float64)
    is_car = np.arange(len(features)) < len(cars)
    share = np.where(is_car, 0.5 / len(cars), 0.5 / len(others))
    mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-6
    standard = (features - mean) / spread

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weights, bias = parameters[:-1], parameters[-1]
        margins = np.where(is_car, 1, -1) * (standard @ weights + bias)
        slopes = -np.where(is_car, 1, -1) * share * expit(-margins)
        gradient = np.append(standard.T @ slopes + decay * weights, slopes.sum())
        return float(share @ np.logaddexp(0, -margins) + decay / 2 * weights @ weights), gradient

    fitted = minimize(loss, np.zeros(features.shape[1] + 1), jac=True, method="L-BFGS-B").x
    weights = (fitted[:-1] / spread).astype(np.float32)
    even_odds = float(mean @ weights - fitted[-1])
    # Never stricter than even odds: where few cars are held out, their lowest score says little.
    operating_point = min(float(np.quantile(held_out_cars @ weights, 1 - keep)), even_odds)
    return CarDetector(weights, -operating_point)
