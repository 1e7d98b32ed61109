"""From logits to the contract's answer, on numbers that can be checked by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from factories import TINY_LABELS, TINY_MANIFEST

from handler.answer import Answer, Region, Verdict, build_answer, verdict_of
from handler.heatmap import Heatmap
from handler.region import Box

WHOLE = Region(Box(0, 0, 640, 480), "photo", (640, 480))


# Classes of TINY_LABELS: Audi TTS, Aston Martin V8 Vantage, BMW X5, Audi A5.
def answer(
    probabilities: list[float],
    verdict: Verdict = "identified",
    region: Region = WHOLE,
    top_k: int = 5,
    temperature: float = 1.0,
) -> Answer:
    """The answer to logits with these softmax probabilities."""
    logits = np.float32(np.log(probabilities) + 10)
    manifest = replace(TINY_MANIFEST, temperature=temperature)
    return build_answer(logits, TINY_LABELS, manifest, verdict=verdict, region=region, top_k=top_k)


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
        result = build_answer(
            logits, everything_audi, TINY_MANIFEST, verdict="identified", region=WHOLE, top_k=1
        )
        assert 0.999 < result.make_confidence <= 1


def test_temperature_softens_confidence_but_not_the_order() -> None:
    sharp = answer([0.9, 0.05, 0.03, 0.02])
    soft = answer([0.9, 0.05, 0.03, 0.02], temperature=2.0)
    roots = np.sqrt([0.9, 0.05, 0.03, 0.02])
    assert [p.confidence for p in soft.predictions] == pytest.approx(roots / roots.sum())
    assert [p.label for p in soft.predictions] == [p.label for p in sharp.predictions]


@pytest.mark.parametrize(
    ("is_car", "is_known", "verdict"),
    [
        (True, True, "identified"),
        (True, False, "uncertain"),
        (False, True, "not_a_car"),
        (False, False, "not_a_car"),  # no car at all is said first
    ],
)
def test_the_verdict_asks_for_a_car_and_then_whether_it_is_known(
    is_car: bool, is_known: bool, verdict: str
) -> None:
    assert verdict_of(is_car, is_known) == verdict


def test_two_models_that_are_about_equally_likely_are_named_in_a_warning() -> None:
    [warning] = answer([0.45, 0.05, 0.05, 0.45]).warnings
    assert "Audi TTS Coupe 2012" in warning
    assert "Audi A5 Coupe 2012" in warning
    assert answer([0.6, 0.1, 0.1, 0.2]).warnings == ()


def test_many_models_that_are_about_equally_likely_are_counted_in_a_warning() -> None:
    assert answer([0.25, 0.25, 0.25, 0.25]).warnings == ("4 models are about equally likely.",)


def part(side: int, source: str = "found") -> Region:
    """A square of the photo."""
    return Region(Box(10, 10, 10 + side, 10 + side), source, (640, 480))


def test_a_car_that_had_to_be_found_on_a_small_part_of_the_photo_is_warned_of() -> None:
    [warning] = answer([0.9, 0.05, 0.03, 0.02], region=part(160)).warnings
    assert "only 8% of the photo" in warning
    [warning] = answer([0.9, 0.05, 0.03, 0.02], region=part(20)).warnings
    assert "only 1% of the photo" in warning, "never 0 %"
    # Big enough, or the sender's own choice.
    assert answer([0.9, 0.05, 0.03, 0.02], region=part(200)).warnings == ()
    assert answer([0.9, 0.05, 0.03, 0.02], region=part(160, "box")).warnings == ()


def test_of_something_that_is_no_car_nothing_is_warned_of() -> None:
    assert answer([0.25, 0.25, 0.25, 0.25], "not_a_car", part(20)).warnings == ()


def test_huge_logits_do_not_overflow() -> None:
    logits = np.float32([1e6, 0, -1e6, 5])
    result = build_answer(
        logits, TINY_LABELS, TINY_MANIFEST, verdict="identified", region=WHOLE, top_k=2
    )
    assert result.predictions[0].confidence == pytest.approx(1)


def test_the_json_is_the_contracts_to_the_letter() -> None:
    result = build_answer(
        np.float32(np.log([0.123456, 1e-9, 0.8, 0.076544]) + 10),
        TINY_LABELS,
        TINY_MANIFEST,
        verdict="identified",
        region=Region(Box(120, 80, 600, 440), "found", (640, 480)),
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
        "region": {"left": 120, "top": 80, "right": 600, "bottom": 440, "source": "found"},
        "warnings": ["The photo is small."],
        "model_version": "1.0",
        "request_id": "r-1",
        "timing_ms": {"decode": 3.1, "inference": 21.9},
    }
    assert result.to_json() == expected
    assert list(result.to_json()) == list(expected)
    assert json.loads(json.dumps(result.to_json())) == expected


def test_the_heatmap_is_in_the_json_only_where_there_is_one() -> None:
    plain = answer([0.9, 0.05, 0.03, 0.02])
    heatmap = Heatmap(0, np.ones((2, 2), np.float32), WHOLE.box, WHOLE.size)
    assert "heatmap" not in plain.to_json()
    assert replace(plain, heatmap=heatmap).to_json()["heatmap"] == heatmap.to_json()
