"""How sure it is that the car is a known one, against scipy and numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import scipy.stats

from handler.known import SCORES, KnownScore, softmax

LOGITS = np.random.default_rng(0).normal(scale=4, size=(50, 7)).astype(np.float32)


def scores(name: str, logits: object, temperature: float = 1.0) -> np.ndarray:
    return KnownScore(name, temperature, threshold=0).scores(np.float32(logits))


def by_scipy(name: str, logits: np.ndarray) -> np.ndarray:
    probabilities = scipy.special.softmax(logits, axis=-1)
    ordered = np.sort(logits, axis=-1)
    return {
        "max_probability": lambda: probabilities.max(axis=-1),
        "negative_entropy": lambda: -scipy.stats.entropy(probabilities, axis=-1),
        "energy": lambda: scipy.special.logsumexp(logits, axis=-1),
        "max_logit": lambda: ordered[:, -1],
        "margin": lambda: ordered[:, -1] - ordered[:, -2],
    }[name]()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("name", SCORES)
def test_a_score_is_what_scipy_says(name: str, temperature: float) -> None:
    expected = by_scipy(name, LOGITS.astype(np.float64) / temperature)
    np.testing.assert_allclose(scores(name, LOGITS, temperature), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "score"),
    [
        # Softmax 1/5, 1/5, 3/5.
        ("max_probability", 0.6),
        ("negative_entropy", 0.4 * np.log(0.2) + 0.6 * np.log(0.6)),
        ("energy", np.log(5)),
        ("max_logit", np.log(3)),
        ("margin", np.log(3)),
    ],
)
def test_a_score_is_what_one_gets_by_hand(name: str, score: float) -> None:
    assert scores(name, [[0, 0, np.log(3)]]) == pytest.approx([score])


@pytest.mark.parametrize("name", SCORES)
def test_the_order_of_the_classes_is_of_no_account(name: str) -> None:
    order = np.random.default_rng(1).permutation(7)
    np.testing.assert_allclose(scores(name, LOGITS[:, order]), scores(name, LOGITS), rtol=1e-12)


@pytest.mark.parametrize("name", SCORES)
def test_a_clear_answer_scores_higher_than_an_unclear_one(name: str) -> None:
    unclear, clear = scores(name, [[1, 1, 1, 1], [9, 0, 0, 0]])
    assert clear > unclear


def test_a_constant_added_to_all_logits_moves_only_what_their_height_speaks_for() -> None:
    moved = {
        name: not np.allclose(scores(name, LOGITS + 10), scores(name, LOGITS), atol=1e-4)
        for name in SCORES
    }
    assert {name for name in SCORES if moved[name]} == {"energy", "max_logit"}


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("logits", [[1e6, 0, -1e6], [-1e6, -1e6, -1e6], [3e38, 3e38, -3e38]])
def test_extreme_logits_do_not_overflow(name: str, logits: list[float]) -> None:
    with np.errstate(all="raise", under="ignore"):
        assert np.isfinite(scores(name, [logits])).all()


def test_the_softmax_is_scipys_along_the_last_axis() -> None:
    stacked = LOGITS.reshape(5, 10, 7)
    np.testing.assert_allclose(
        softmax(stacked), scipy.special.softmax(stacked.astype(np.float64), axis=-1), rtol=1e-6
    )


def test_a_score_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(ValueError, match=r"no score 'luck': there are max_probability, .*margin"):
        KnownScore("luck", 1.0, 0.5)


def test_a_part_that_was_found_is_known_from_a_higher_score_on() -> None:
    known = KnownScore("max_logit", 2.0, threshold=1.0, stricter_if_found=0.5)
    logits = np.float32([[1.9, 0], [2.0, 0], [2.0, 0], [2.9, 0], [3.0, 0]])
    found = np.array([False, False, True, True, True])
    assert known.is_known(logits, found).tolist() == [False, True, False, False, True]


@pytest.mark.parametrize("strictness", [-0.1, float("nan")])
def test_a_part_that_was_found_is_not_trusted_more(strictness: float) -> None:
    with pytest.raises(ValueError, match="as high as the photo's"):
        KnownScore("energy", 1.0, 0.5, strictness)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="not positive"):
        KnownScore("energy", temperature, 0.5)
