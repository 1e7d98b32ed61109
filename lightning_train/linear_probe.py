"""Logistic regression on features of the network: what detector and locator are made of."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

__all__ = ["fit_logistic"]


def fit_logistic(
    features: NDArray[np.floating[Any]], positive: NDArray[np.bool_], decay: float
) -> tuple[NDArray[np.float32], float]:
    """Fit log-odds = weights · features + bias, both sides weighing the same.

    Args:
        features: [N, F]; they are standardised for the fit, which the result makes good.
        positive: [N], on which side each is; both must occur.
        decay: of the squared weights of the standardised features.

    Returns:
        Weights [F] and bias.
    """
    mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-6
    standard = ((features - mean) / spread).astype(np.float32)
    share = np.where(positive, 0.5 / positive.sum(), 0.5 / (~positive).sum())
    side = np.where(positive, 1, -1)

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weights, bias = parameters[:-1], parameters[-1]
        margins = side * (standard @ weights.astype(np.float32) + bias)
        slopes = -side * share * expit(-margins)
        gradient = standard.T @ slopes.astype(np.float32) + decay * weights
        value = share @ np.logaddexp(0, -margins) + decay / 2 * weights @ weights
        return float(value), np.append(gradient, slopes.sum())

    fitted = minimize(loss, np.zeros(features.shape[1] + 1), jac=True, method="L-BFGS-B").x
    weights = (fitted[:-1] / spread).astype(np.float32)
    return weights, float(fitted[-1] - mean @ weights)
