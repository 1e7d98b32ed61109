"""What the operator is told: figures that add up, and logs that give nobody away."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from factories import TINY_LABELS, TINY_MANIFEST

from handler.answer import Answer, Region, Verdict, build_answer
from handler.errors import ImageUnreadableError, InvalidOptionError, PhotoError, PhotoTimeoutError
from handler.reader import Source
from handler.region import Box
from handler.telemetry import METRICS, Metric, log_line, observations

ROOT = Path(__file__).resolve().parent.parent


def answer(verdict: Verdict, source: Source = "photo", decode: float = 3.14159) -> Answer:
    """An answer with a confidence of a half."""
    return build_answer(
        np.float32(np.log([0.5, 0.25, 0.125, 0.125])),
        TINY_LABELS,
        TINY_MANIFEST,
        verdict=verdict,
        region=Region(Box(0, 0, 64, 48), source, (640, 480)),
        top_k=3,
        request_id="r-1",
        warnings=("The photo is small.",),
        timing_ms={"decode": decode, "inference": 21.949},
    )


BATCH: list[Answer | PhotoError] = [
    answer("identified"),
    ImageUnreadableError("The JPEG image is damaged."),
    answer("identified", "found"),
    answer("not_a_car"),
    answer("identified"),
    InvalidOptionError("top_k must be …"),
    ImageUnreadableError("The PNG image is damaged."),
    answer("uncertain", "box"),
]


def observed(*batches: list[Answer | PhotoError]) -> dict[str, dict[tuple[str, ...], list[float]]]:
    """Metric → labels → the values it got."""
    found: dict[str, dict[tuple[str, ...], list[float]]] = defaultdict(lambda: defaultdict(list))
    for batch in batches:
        for metric, value, labels in observations(batch):
            found[metric.name][labels].append(value)
    return found


# --- metrics ----------------------------------------------------------------------------------


def test_the_counters_of_a_mixed_batch_add_up_to_its_photos() -> None:
    found = observed(BATCH)
    assert found["car_identifier_answers_total"] == {
        ("identified", "photo"): [2],
        ("identified", "found"): [1],
        ("not_a_car", "photo"): [1],
        ("uncertain", "box"): [1],
    }
    assert found["car_identifier_errors_total"] == {
        ("image_unreadable",): [2],
        ("invalid_option",): [1],
    }
    assert found["car_identifier_batch_size"] == {(): [8]}
    counted = sum(
        value
        for name in ("car_identifier_answers_total", "car_identifier_errors_total")
        for values in found[name].values()
        for value in values
    )
    assert counted == len(BATCH)


def test_every_answer_adds_its_confidence_and_its_times_in_seconds() -> None:
    found = observed([answer("identified", decode=1500), answer("identified", decode=0.004)])
    assert found["car_identifier_confidence"] == {(): [0.5, 0.5]}
    assert found["car_identifier_stage_seconds"] == {
        ("decode",): [1.5, 0.0],
        ("inference",): [0.02195, 0.02195],
    }


def test_a_batch_without_photos_is_none() -> None:
    assert observed([]) == {}


def test_a_batch_of_errors_only_has_a_size_and_no_confidence() -> None:
    found = observed([PhotoTimeoutError("…")] * 3)
    assert found == {
        "car_identifier_batch_size": {(): [3]},
        "car_identifier_errors_total": {("timeout",): [3]},
    }


def test_every_observation_is_of_a_listed_metric_and_has_all_its_labels() -> None:
    for metric, _, labels in observations(BATCH):
        assert metric in METRICS
        assert len(labels) == len(metric.labels)


def test_metrics_yaml_lists_exactly_these_metrics() -> None:
    # TorchServe shows what is listed there with these very labels, and drops the rest in silence.
    listed = yaml.safe_load((ROOT / "metrics.yaml").read_text())["model_metrics"]
    ours = {
        Metric(one["name"], kind, one["unit"], tuple(one["dimensions"]))
        for kind, metrics in listed.items()
        for one in metrics
        if one["name"].startswith("car_identifier")
    }
    assert ours == {replace(metric, labels=("model_version", *metric.labels)) for metric in METRICS}


# --- logs -------------------------------------------------------------------------------------


def test_an_answer_is_logged_as_one_line_of_json() -> None:
    line = log_line(answer("uncertain", "found"), "r-1", 8)
    assert "\n" not in line
    assert json.loads(line) == {
        "request_id": "r-1",
        "batch_size": 8,
        "status": 200,
        "verdict": "uncertain",
        "confidence": 0.5,
        "region": "found",
        "decode_ms": 3.1,
        "inference_ms": 21.9,
    }


def test_an_error_is_logged_as_one_line_of_json() -> None:
    line = log_line(ImageUnreadableError("The JPEG image is damaged.\nSend it again."), None, 1)
    assert "\n" not in line
    assert json.loads(line) == {
        "request_id": None,
        "batch_size": 1,
        "status": 422,
        "error": "image_unreadable",
    }


@pytest.mark.parametrize("result", BATCH)
def test_no_log_line_says_which_car_it_was_or_what_was_sent(result: Answer | PhotoError) -> None:
    line = log_line(result, "r-1", 8)
    for label in TINY_LABELS:
        assert label.make not in line
        assert label.model not in line
        assert label.label not in line
    assert "damaged" not in line
    assert "small" not in line
