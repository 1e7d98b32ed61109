"""What is said of a model: accuracies, calibration, verdict thresholds. Plain NumPy on logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp, softmax

from handler.labels import CarLabel

__all__ = [
    "ClassIds",
    "Confusion",
    "Logits",
    "Reliability",
    "accuracies",
    "auroc",
    "confidences",
    "confusions",
    "energies",
    "expected_calibration_error",
    "fit_temperature",
    "fit_threshold",
    "reliability",
]

Logits = NDArray[np.float32]
ClassIds = NDArray[np.int64]


def accuracies(logits: Logits, truth: ClassIds, labels: Sequence[CarLabel]) -> dict[str, float]:
    """Top-1, top-5, make and make+model accuracy, and the mean of the per-class accuracies.

    `top1_standard_error` is the binomial one, √(p(1-p)/N): what another draw of as many photos
    would change top-1 by.

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
        "top1_standard_error": float(np.sqrt(right.mean() * (1 - right.mean()) / len(truth))),
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


def confidences(logits: Logits, temperature: float = 1.0) -> NDArray[np.float32]:
    """Probability [N] of each photo's top answer.

    Also a baseline for telling what the model does not know (Hendrycks & Gimpel 2017, arXiv
    1610.02136).
    """
    result: NDArray[np.float32] = softmax(logits / temperature, axis=1).max(axis=1)
    return result


def energies(logits: Logits) -> NDArray[np.float32]:
    """Negative free energy [N]: high for photos like those trained on.

    Unlike confidence it sees how large the logits are, not only how they differ (Liu et al. 2020,
    arXiv 2010.03759).
    """
    result: NDArray[np.float32] = logsumexp(logits, axis=1)
    return result


@dataclass(frozen=True, slots=True)
class Reliability:
    """Confidence against accuracy in B equally wide bins of confidence.

    Attributes:
        photos: [B], photos in each bin.
        confidence: [B], their mean confidence, NaN in an empty bin.
        accuracy: [B], the share of them that is right, likewise.
    """

    photos: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]

    @property
    def calibration_error(self) -> float:
        """Expected calibration error: the mean gap, every photo weighing the same."""
        gaps = np.abs(self.confidence - self.accuracy)
        return float(np.nansum(gaps * self.photos) / self.photos.sum())


def reliability(
    logits: Logits, truth: ClassIds, temperature: float = 1.0, bins: int = 15
) -> Reliability:
    """Sort photos into bins by their confidence (Guo et al. 2017, arXiv 1706.04599)."""
    confidence = confidences(logits, temperature).astype(np.float64)
    right = (logits.argmax(axis=1) == truth).astype(np.float64)
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    photos = np.bincount(bin_of, minlength=bins)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN of an empty bin
        return Reliability(
            photos,
            np.bincount(bin_of, confidence, bins) / photos,
            np.bincount(bin_of, right, bins) / photos,
        )


def expected_calibration_error(
    logits: Logits, truth: ClassIds, temperature: float = 1.0, bins: int = 15
) -> float:
    """Mean gap between confidence and accuracy over equally wide bins of confidence."""
    return reliability(logits, truth, temperature, bins).calibration_error


@dataclass(frozen=True, slots=True)
class Confusion:
    """Photos of one class that were taken for another.

    Attributes:
        truth: class id of what they show.
        answer: class id of the top answer.
        photos: their positions among all photos, the most confident mistake first.
    """

    truth: int
    answer: int
    photos: tuple[int, ...]


def confusions(logits: Logits, truth: ClassIds, temperature: float = 1.0) -> list[Confusion]:
    """Every mistake, by its pair of classes: the most frequent, then most confident, pair first."""
    answer = logits.argmax(axis=1)
    confidence = confidences(logits, temperature)
    pairs: dict[tuple[int, int], list[int]] = {}
    for i in np.argsort(-confidence, kind="stable").tolist():
        if answer[i] != truth[i]:
            pairs.setdefault((int(truth[i]), int(answer[i])), []).append(i)
    found = [Confusion(*pair, tuple(photos)) for pair, photos in pairs.items()]
    # Stable: among equally frequent pairs the one met first, which is the most confident, leads.
    return sorted(found, key=lambda confusion: -len(confusion.photos))


def fit_threshold(
    scores: NDArray[np.floating[Any]], right: NDArray[np.bool_], precision: float
) -> float:
    """The lowest score from which on at least `precision` of the answers are right.

    Returns:
        A threshold; above all scores where none reaches the precision.
    """
    order = np.argsort(-scores, kind="stable")
    precise = np.cumsum(right[order]) / np.arange(1, len(order) + 1) >= precision
    return float(scores[order][precise].min() if precise.any() else scores.max() + 1)


def auroc(inside: NDArray[np.floating[Any]], outside: NDArray[np.floating[Any]]) -> float:
    """Probability that a score from `inside` exceeds one from `outside` (ties count half)."""
    both = np.concatenate([inside, outside])
    order = np.argsort(both, kind="stable")
    ranks = np.empty(len(both))
    _, first, counts = np.unique(both[order], return_index=True, return_counts=True)
    ranks[order] = np.repeat(first + (counts + 1) / 2, counts)
    wins = ranks[: len(inside)].sum() - len(inside) * (len(inside) + 1) / 2
    return float(wins / (len(inside) * len(outside)))
