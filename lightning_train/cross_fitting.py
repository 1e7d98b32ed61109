"""What calibration and thresholds are worth on photos that they were not fitted to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from handler.identifier import CarIdentifier
from handler.known import KnownScore
from lightning_train.closer_looks import fit_closer_looks
from lightning_train.data import Sample
from lightning_train.evaluation.evaluate import photo_scores
from lightning_train.evaluation.result import Evaluation, Temperature
from lightning_train.known_score import operating_point

__all__ = ["cross_fitted"]


def cross_fitted(
    worker: Callable[[KnownScore], CarIdentifier],
    name: str,
    logits: NDArray[np.float32],
    samples: Sequence[Sample],
    backgrounds: Sequence[Path],
    precision: float,
) -> dict[str, float]:
    """Fit on every second photo, have the others answered, and the other way round.

    Args:
        worker: answers with that score and operating point.
        name: of the score.
        logits: [N, C], of the first look at each photo.
        samples: the N photos.
        backgrounds: photos without any car, for `fit_closer_looks`.
        precision: share of the `identified` answers that shall be right.

    Returns:
        The mean of each figure of the two halves, as `Evaluation.figures` names them; nothing where
        a single photo leaves nothing to measure on.
    """
    if len(samples) < 2:
        return {}
    measured = []
    for half in (0, 1):
        fit, held_out = samples[half::2], samples[1 - half :: 2]
        known = operating_point(name, logits[half::2], _classes(fit), precision)
        identifier = worker(fit_closer_looks(worker(known), fit, backgrounds, precision))
        evaluation = Evaluation(
            labels=identifier.labels,
            samples=tuple(held_out),
            cars=photo_scores(identifier, held_out, f"half {half + 1} of 2"),
            temperature=Temperature(known.temperature, "the other half"),
        )
        measured.append(evaluation.figures())
    return {figure: float(np.mean([one[figure] for one in measured])) for figure in measured[0]}


def _classes(samples: Sequence[Sample]) -> NDArray[np.int64]:
    return np.array([sample.class_id for sample in samples])
