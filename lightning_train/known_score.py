"""Choose the score that tells `identified` from `uncertain`, and its operating point."""

from __future__ import annotations

from dataclasses import replace
from math import floor

import numpy as np
from numpy.typing import NDArray

from handler.known import SCORES, KnownScore
from lightning_train.evaluation import metrics

__all__ = ["fit_known_score", "operating_point"]

Logits = NDArray[np.float32]


def fit_known_score(
    logits: Logits,
    truth: NDArray[np.int64],
    unseen: Logits | None,
    precision: float,
) -> tuple[KnownScore, dict[str, dict[str, float]]]:
    """Compare all scores, and take the one that keeps most right answers and fewest unseen cars.

    Args:
        logits: [N, C], of photos that no weight was fitted to.
        truth: [N], their classes.
        unseen: [M, C], of cars that are none of the classes; None without such photos.
        precision: share of the photos from the threshold on that shall be answered rightly.

    Returns:
        The chosen score, and for each: `auroc_wrong` and `auroc_unseen` (right answers against
        wrong ones and against unseen cars), and the shares `identified` and `unseen_identified`
        at its threshold.
    """
    right = logits.argmax(axis=1) == truth
    compared: dict[str, dict[str, float]] = {}
    fitted: dict[str, KnownScore] = {}
    for name in SCORES:
        score = operating_point(name, logits, truth, precision)
        values = score.scores(logits)
        figures = {"identified": float((values >= score.threshold).mean())}
        if 0 < right.sum() < len(right):
            figures["auroc_wrong"] = metrics.auroc(values[right], values[~right])
        if unseen is not None and right.any():
            others = score.scores(unseen)
            figures["auroc_unseen"] = metrics.auroc(values[right], others)
            figures["unseen_identified"] = float((others >= score.threshold).mean())
        compared[name] = figures
        fitted[name] = score
    best = max(
        compared,
        key=lambda name: (
            compared[name]["identified"] - compared[name].get("unseen_identified", 0.0)
        ),
    )
    return fitted[best], compared


def operating_point(
    name: str, logits: Logits, truth: NDArray[np.int64], precision: float
) -> KnownScore:
    """A score with temperature and threshold fitted to these photos.

    Args:
        name: of the score.
        logits: [N, C].
        truth: [N], classes.
        precision: share of the photos from the threshold on that shall be answered rightly.
    """
    score = KnownScore(name, round(metrics.fit_temperature(logits, truth), 4), 0.0)
    right = logits.argmax(axis=1) == truth
    threshold = metrics.fit_threshold(score.scores(logits), right, precision)
    # Rounded down, so that the photo it was taken from stays.
    return replace(score, threshold=floor(threshold * 1e4) / 1e4)
