"""From logits to the contract's answer, on numbers that can be checked by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from factories import TINY_LABELS, TINY_MANIFEST

from handler.answer import Answer, build_answer

# Classes of TINY_LABELS: Audi TTS, Aston Martin V8 Vantage, BMW X5, Audi A5.
MANIFEST = replace(TINY_MANIFEST, temperature=1.0, min_confidence=0.6)


def answer(probabilities: list[float], is_car: bool = True, top_k: int = 5, **changes) -> Answer:
    """The answer to logits with these softmax probabilities."""
    logits = np.float32(np.log(probabilities) + 10)
    manifest = replace(MANIFEST, **changes)
    return build_answer(logits, TINY_LABELS, manifest, is_car=is_car, top_k=top_k)


def test_predictions_come_best_first_with_their_probabilities() -> None:
    predictions = answer([0.1, 0.2, 0.65, 0.05]).predictions
    assert [p.label.class_id for p in predictions] == [2, 1, 0, 3]
    assert [p.confidence for p in predictions] == pytest.approx([0.65, 0.2, 0.1, 0.05])


@pytest.mark.parametrize(("top_k", "length"), [(1, 1), (3, 3), (4, 4), (20, 4)])
def test_top_k_bounds_the_predictions(top_k: int, length: int) -> None:
    assert len(answer([0.1, 0.2, 0.65, 0.05], top_k=top_k).predictions) == length


def test_make_confidence_sums_the_make_of_the_first_prediction_also_beyond_top_k() -> None:
    assert answer([0.5, 0.1, 0.15, 0.25], top_k=1).make_confidence == pytest.approx(0.75)
    # Audi as a whole is likelier here, but the first prediction is a BMW.
    assert answer([0.29, 0.01, 0.4, 0.3]).make_confidence == pytest.approx(0.4)


def test_make_confidence_never_exceeds_one() -> None:
    everything_audi = [replace(label, make="Audi") for label in TINY_LABELS]
    for seed in range(200):
        logits = np.random.default_rng(seed).normal(size=4).astype(np.float32)
        result = build_answer(logits, everything_audi, MANIFEST, top_k=1)
        assert 0.999 < result.make_confidence <= 1


def test_temperature_softens_confidence_but_not_the_order() -> None:
    sharp = answer([0.9, 0.05, 0.03, 0.02])
    soft = answer([0.9, 0.05, 0.03, 0.02], temperature=2.0)
    roots = np.sqrt([0.9, 0.05, 0.03, 0.02])
    assert [p.confidence for p in soft.predictions] == pytest.approx(roots / roots.sum())
    assert [p.label for p in soft.predictions] == [p.label for p in sharp.predictions]


@pytest.mark.parametrize(
    ("probability", "is_car", "verdict"),
    [
        (0.7, True, "identified"),
        (0.5, True, "uncertain"),
        (0.7, False, "not_a_car"),
        (0.5, False, "not_a_car"),  # no car at all is said first
    ],
)
def test_the_verdict_asks_for_a_car_and_then_for_confidence(
    probability: float, is_car: bool, verdict: str
) -> None:
    rest = (1 - probability) / 3
    assert answer([probability, rest, rest, rest], is_car).verdict == verdict


def test_two_models_that_are_about_equally_likely_are_named_in_a_warning() -> None:
    [warning] = answer([0.45, 0.05, 0.05, 0.45]).warnings
    assert "Audi TTS Coupe 2012" in warning
    assert "Audi A5 Coupe 2012" in warning
    assert answer([0.6, 0.1, 0.1, 0.2]).warnings == ()


def test_of_something_that_is_no_car_no_models_are_called_likely() -> None:
    assert answer([0.25, 0.25, 0.25, 0.25], is_car=False).warnings == ()


def test_huge_logits_do_not_overflow() -> None:
    result = build_answer(np.float32([1e6, 0, -1e6, 5]), TINY_LABELS, MANIFEST, top_k=2)
    assert result.predictions[0].confidence == pytest.approx(1)
    assert result.verdict == "identified"


def test_the_json_is_the_contracts_to_the_letter() -> None:
    result = build_answer(
        np.float32(np.log([0.123456, 1e-9, 0.8, 0.076544]) + 10),
        TINY_LABELS,
        MANIFEST,
        top_k=2,
        request_id="r-1",
        warnings=["The photo is small."],
        timing_ms={"decode": 3.14159, "inference": 21.949},
    )
    bmw = {
        "make": "BMW",
        "model": "X5",
        "body": "SUV",
        "year": 2007,
        "label": "BMW X5 SUV 2007",
        "class_id": 2,
        "confidence": 0.8,
    }
    audi = {
        "make": "Audi",
        "model": "TTS",
        "body": "Coupe",
        "year": 2012,
        "label": "Audi TTS Coupe 2012",
        "class_id": 0,
        "confidence": 0.1235,
    }
    expected = {
        **bmw,
        "make_confidence": 0.8,
        "verdict": "identified",
        "predictions": [bmw, audi],
        "warnings": ["The photo is small."],
        "model_version": "1.0",
        "request_id": "r-1",
        "timing_ms": {"decode": 3.1, "inference": 21.9},
    }
    assert result.to_json() == expected
    assert list(result.to_json()) == list(expected)
    assert json.loads(json.dumps(result.to_json())) == expected
