"""What is said of a model: accuracies, calibration, verdict thresholds. Plain NumPy on logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from handler.labels import CarLabel

__all__ = [
    "accuracies",
    "auroc",
    "expected_calibration_error",
    "fit_min_confidence",
    "fit_temperature",
]

Logits = NDArray[np.float32]
ClassIds = NDArray[np.int64]


def accuracies(logits: Logits, truth: ClassIds, labels: Sequence[CarLabel]) -> dict[str, float]:
    """Top-1, top-5, make and make+model accuracy, and the mean of the per-class accuracies.

    Args:
        logits: [N, C].
        truth: [N], 0-based class ids.
        labels: the C classes; make and model are read off the top answer.
    """
    ranked = np.argsort(-logits, axis=1, kind="stable")
    top = ranked[:, 0]
    makes = np.array([label.make for label in labels])
    models = np.array([f"{label.make}\0{label.model}" for label in labels])
    right = top == truth
    return {
        "photos": float(len(truth)),
        "top1": float(right.mean()),
        "top5": float((ranked[:, :5] == truth[:, None]).any(axis=1).mean()),
        "make": float((makes[top] == makes[truth]).mean()),
        "make_model": float((models[top] == models[truth]).mean()),
        "per_class": float(np.mean([right[truth == c].mean() for c in np.unique(truth)])),
    }


def fit_temperature(logits: Logits, truth: ClassIds) -> float:
    """The temperature that makes confidences honest (Guo et al. 2017, arXiv 1706.04599)."""
    rows = np.arange(len(truth))

    def negative_log_likelihood(log_temperature: float) -> float:
        return -float(log_softmax(logits / np.exp(log_temperature), axis=1)[rows, truth].mean())

    best = minimize_scalar(negative_log_likelihood, bounds=(-3.0, 3.0), method="bounded")
    return float(np.exp(best.x))


def expected_calibration_error(
    logits: Logits, truth: ClassIds, temperature: float = 1.0, bins: int = 15
) -> float:
    """Mean gap between confidence and accuracy over equally wide bins of confidence."""
    probabilities = softmax(logits / temperature, axis=1)
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == truth
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        abs(confidence[bin_of == b].mean() - right[bin_of == b].mean()) * (bin_of == b).mean()
        for b in np.unique(bin_of)
    ]
    return float(np.sum(gaps))


def fit_min_confidence(
    confidence: NDArray[np.floating[Any]], right: NDArray[np.bool_], precision: float
) -> float:
    """The lowest confidence from which on at least `precision` of the answers are right.

    Returns:
        A threshold in 0…1; 1 where no threshold reaches the precision.
    """
    order = np.argsort(-confidence, kind="stable")
    precise = np.cumsum(right[order]) / np.arange(1, len(order) + 1) >= precision
    return float(confidence[order][precise].min()) if precise.any() else 1.0


def auroc(inside: NDArray[np.floating[Any]], outside: NDArray[np.floating[Any]]) -> float:
    """Probability that a score from `inside` exceeds one from `outside` (ties count half)."""
    both = np.concatenate([inside, outside])
    order = np.argsort(both, kind="stable")
    ranks = np.empty(len(both))
    _, first, counts = np.unique(both[order], return_index=True, return_counts=True)
    ranks[order] = np.repeat(first + (counts + 1) / 2, counts)
    wins = ranks[: len(inside)].sum() - len(inside) * (len(inside) + 1) / 2
    return float(wins / (len(inside) * len(outside)))
