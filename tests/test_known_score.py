"""Which score tells right answers from wrong ones and from unseen cars is measured, not assumed."""

from __future__ import annotations

import numpy as np
import pytest

from handler.known import SCORES
from lightning_train.known_score import fit_known_score

CLASSES = 5


def answers(
    generator: np.random.Generator, count: int, strength: float
) -> tuple[np.ndarray, np.ndarray]:
    """Logits of noise with the right class raised by the strength, and the right classes."""
    truth = generator.integers(CLASSES, size=count)
    logits = generator.normal(size=(count, CLASSES))
    logits[np.arange(count), truth] += strength
    return logits.astype(np.float32), truth


def test_every_score_is_compared_and_the_threshold_keeps_its_promise() -> None:
    generator = np.random.default_rng(0)
    logits, truth = answers(generator, 400, 2.5)
    unseen, _ = answers(generator, 100, 0.0)
    score, compared = fit_known_score(logits, truth, unseen, precision=0.95)
    assert set(compared) == set(SCORES)
    identified = score.scores(logits) >= score.threshold - 1e-3  # it is rounded
    right = logits.argmax(axis=1) == truth
    assert right[identified].mean() >= 0.94
    assert identified.mean() == pytest.approx(compared[score.name]["identified"], abs=0.01)


def test_the_score_that_tells_unseen_cars_is_taken() -> None:
    """Here unseen cars have logits as far apart as known ones, but all of them low."""
    generator = np.random.default_rng(1)
    logits, truth = answers(generator, 400, 4.0)
    unseen, _ = answers(generator, 200, 4.0)
    score, compared = fit_known_score(logits + 6, truth, unseen - 6, precision=0.95)
    assert score.name in ("energy", "max_logit")
    assert compared["max_probability"]["unseen_identified"] > 0.5
    assert compared[score.name]["unseen_identified"] == 0


def test_without_unseen_cars_or_without_mistakes_what_is_left_is_compared() -> None:
    generator = np.random.default_rng(2)
    logits, truth = answers(generator, 200, 1.0)
    _, compared = fit_known_score(logits, truth, None, precision=0.8)
    assert all("auroc_unseen" not in figures for figures in compared.values())
    perfect = np.eye(CLASSES, dtype=np.float32)[truth] * 20
    score, compared = fit_known_score(perfect, truth, logits, precision=0.95)
    assert all("auroc_wrong" not in figures for figures in compared.values())
    assert (score.scores(perfect) >= score.threshold - 1e-3).all()
