"""The figures that are said of a model, on cases small enough to check by hand."""

from __future__ import annotations

import numpy as np
import pytest

from handler.labels import labels_from_names
from lightning_train.evaluation import metrics

LABELS = labels_from_names(
    ["Audi A5 Coupe 2012", "Audi A5 Convertible 2012", "Audi TTS Coupe 2012", "BMW X5 SUV 2007"]
)


def logits_for(*top: int) -> np.ndarray:
    """Logits whose best classes are these, photo by photo."""
    return np.eye(len(LABELS), dtype=np.float32)[list(top)]


def test_make_and_model_are_scored_apart_from_the_class() -> None:
    # exact; other body of the same model; other model of the same make; other make
    figures = metrics.accuracies(logits_for(0, 1, 2, 3), np.array([0, 0, 0, 0]), LABELS)
    assert figures["top1"] == 0.25
    assert figures["make_model"] == 0.5
    assert figures["make"] == 0.75


def test_top5_asks_for_the_five_best() -> None:
    labels = labels_from_names([f"Audi A{i} 2012" for i in range(1, 8)])
    logits = np.array([[6, 5, 4, 3, 2, 1, 0]] * 2, dtype=np.float32)
    assert metrics.accuracies(logits, np.array([4, 5]), labels)["top5"] == 0.5


def test_a_rare_class_weighs_as_much_as_a_common_one_in_the_class_mean() -> None:
    figures = metrics.accuracies(logits_for(0, 0, 0, 0), np.array([0, 0, 0, 3]), LABELS)
    assert figures["top1"] == 0.75
    assert figures["per_class"] == 0.5


def test_the_standard_error_of_top1_is_that_of_a_share() -> None:
    figures = metrics.accuracies(logits_for(0, 0, 0, 1), np.array([0, 0, 0, 0]), LABELS)
    assert figures["top1_standard_error"] == pytest.approx((0.75 * 0.25 / 4) ** 0.5)


def test_a_class_without_photos_does_not_count_in_the_class_mean() -> None:
    figures = metrics.accuracies(logits_for(0, 1, 0), np.array([0, 1, 1]), LABELS)
    assert figures["per_class"] == 0.75  # of the classes 1.0 and 0.5, not of four


def test_the_temperature_undoes_overconfidence() -> None:
    rng = np.random.default_rng(0)
    honest = rng.normal(size=(4000, 10)).astype(np.float32) * 2
    gumbel = rng.gumbel(size=honest.shape)
    truth = (honest + gumbel).argmax(axis=1)  # drawn from softmax(honest)
    temperature = metrics.fit_temperature(honest * 3, truth)
    assert temperature == pytest.approx(3, rel=0.05)
    before = metrics.expected_calibration_error(honest * 3, truth)
    after = metrics.expected_calibration_error(honest * 3, truth, temperature)
    assert after < 0.03 < before


def test_calibration_error_of_a_network_that_is_always_sure_and_half_right() -> None:
    logits = logits_for(0, 0) * 100
    assert metrics.expected_calibration_error(logits, np.array([0, 1])) == pytest.approx(0.5)


def two_class_logits(confidence: list[float]) -> np.ndarray:
    """Logits of two classes whose first has these probabilities."""
    odds = np.log(np.array(confidence) / (1 - np.array(confidence)))
    return np.stack([odds, np.zeros_like(odds)], axis=1).astype(np.float32)


def test_calibration_error_before_and_after_the_temperature_by_hand() -> None:
    # Nine tenths sure, right three times of four; then six tenths sure, right once of two.
    logits = two_class_logits([0.9, 0.9, 0.9, 0.9, 0.6, 0.6])
    truth = np.array([0, 0, 0, 1, 0, 1])
    before = metrics.expected_calibration_error(logits, truth)
    assert before == pytest.approx((4 * abs(0.9 - 0.75) + 2 * abs(0.6 - 0.5)) / 6, abs=1e-6)
    # Halved logits are the square roots of the odds: 9 becomes 3 and 1.5 becomes 1.2247.
    after = metrics.expected_calibration_error(logits, truth, temperature=2.0)
    less_sure = 1.5**0.5 / (1 + 1.5**0.5)
    assert after == pytest.approx((4 * abs(0.75 - 0.75) + 2 * abs(less_sure - 0.5)) / 6, abs=1e-6)


def test_a_bin_of_the_reliability_diagram_is_the_mean_of_its_photos() -> None:
    logits = two_class_logits([0.82, 0.86, 0.55])
    found = metrics.reliability(logits, np.array([0, 1, 0]), bins=5)
    assert found.photos.tolist() == [0, 0, 1, 0, 2]
    assert found.confidence[[2, 4]] == pytest.approx([0.55, 0.84], abs=1e-6)
    assert found.accuracy[[2, 4]].tolist() == [1.0, 0.5]
    assert np.isnan(found.accuracy[0])


def test_mistakes_are_grouped_by_pair_of_classes_the_most_frequent_first() -> None:
    #                      right  1→2   1→2   3→0    0→3  right
    logits = logits_for(0, 2, 2, 0, 3, 1) * np.array([[9], [2], [7], [1], [5], [9]])
    truth = np.array([0, 1, 1, 3, 0, 1])
    assert metrics.confusions(logits.astype(np.float32), truth) == [
        metrics.Confusion(truth=1, answer=2, photos=(2, 1)),  # twice; the surer mistake first
        metrics.Confusion(truth=0, answer=3, photos=(4,)),  # once, surer than the next
        metrics.Confusion(truth=3, answer=0, photos=(3,)),
    ]


def test_energy_sees_the_size_of_the_logits_and_confidence_only_their_differences() -> None:
    small = two_class_logits([0.9])
    large = small + 5
    assert metrics.confidences(small) == pytest.approx(metrics.confidences(large), abs=1e-6)
    assert metrics.energies(large) - metrics.energies(small) == pytest.approx(5, abs=1e-5)
    assert metrics.energies(np.zeros((1, 4), dtype=np.float32)) == pytest.approx(np.log(4))


# From the most confident down, the share of right answers is 1/1, 1/2, 2/3, 2/4, 2/5.
@pytest.mark.parametrize(
    ("precision", "expected"),
    [(1.0, 0.9), (0.66, 0.6), (0.5, 0.4), (0.4, 0.3)],
)
def test_the_threshold_is_the_lowest_that_keeps_the_precision(
    precision: float, expected: float
) -> None:
    confidence = np.array([0.3, 0.9, 0.7, 0.6, 0.4])
    right = np.array([False, True, False, True, False])
    assert metrics.fit_threshold(confidence, right, precision) == expected


def test_no_score_is_enough_for_a_network_that_is_never_right() -> None:
    assert metrics.fit_threshold(np.array([0.9, 0.5]), np.array([False, False]), 0.9) > 0.9


@pytest.mark.parametrize(
    ("inside", "outside", "expected"),
    [
        ([3, 4], [1, 2], 1.0),  # apart
        ([1, 2], [3, 4], 0.0),  # the wrong way round
        ([1, 3], [2, 4], 0.25),  # mixed: one pair of four
        ([1, 1], [1, 1], 0.5),  # ties
    ],
)
def test_auroc(inside: list[float], outside: list[float], expected: float) -> None:
    assert metrics.auroc(np.array(inside, float), np.array(outside, float)) == expected
