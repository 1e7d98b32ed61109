"""Choose the score that tells `identified` from `uncertain`, and its operating point."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from handler.known import SCORES, KnownScore
from lightning_train.evaluation import metrics

__all__ = ["cross_fitted", "fit_known_score"]

Logits = NDArray[np.float32]


def fit_known_score(
    logits: Logits,
    truth: NDArray[np.int64],
    unseen: Logits | None,
    temperature: float,
    precision: float,
) -> tuple[KnownScore, dict[str, dict[str, float]]]:
    """Compare all scores, and take the one that keeps most right answers and fewest unseen cars.

    Args:
        logits: [N, C], of photos that no weight was fitted to.
        truth: [N], their classes.
        unseen: [M, C], of cars that are none of the classes; None without such photos.
        temperature: of the calibrated probabilities.
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
        score = KnownScore(name, temperature, 0.0)
        values = score.scores(logits)
        threshold = metrics.fit_threshold(values, right, precision)
        figures = {"identified": float((values >= threshold).mean())}
        if 0 < right.sum() < len(right):
            figures["auroc_wrong"] = metrics.auroc(values[right], values[~right])
        if unseen is not None and right.any():
            others = score.scores(unseen)
            figures["auroc_unseen"] = metrics.auroc(values[right], others)
            figures["unseen_identified"] = float((others >= threshold).mean())
        compared[name] = figures
        fitted[name] = KnownScore(name, temperature, round(threshold, 4))
    best = max(
        compared,
        key=lambda name: (
            compared[name]["identified"] - compared[name].get("unseen_identified", 0.0)
        ),
    )
    return fitted[best], compared


def cross_fitted(
    logits: Logits, truth: NDArray[np.int64], name: str, precision: float
) -> dict[str, float]:
    """What calibration and threshold are worth on photos that they were not fitted to.

    Fitted on every second photo, measured on the others, and the other way round.

    Returns:
        `calibration_error`, `identified` and `identified_right`, each the mean of the two; empty
        where a single photo leaves nothing to measure on.
    """
    if len(truth) < 2:
        return {}
    halves = np.arange(len(truth)) % 2 == 0
    measured = []
    for fit in (halves, ~halves):
        temperature = metrics.fit_temperature(logits[fit], truth[fit])
        score = KnownScore(name, temperature, 0.0)
        right = logits.argmax(axis=1) == truth
        threshold = metrics.fit_threshold(score.scores(logits[fit]), right[fit], precision)
        identified = score.scores(logits[~fit]) >= threshold
        curve = metrics.reliability(logits[~fit], truth[~fit], temperature)
        measured.append(
            {
                "calibration_error": curve.calibration_error,
                "identified": float(identified.mean()),
                "identified_right": float(right[~fit][identified].mean())
                if identified.any()
                else 0.0,
            }
        )
    return {figure: float(np.mean([one[figure] for one in measured])) for figure in measured[0]}
