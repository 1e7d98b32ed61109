"""What the operator sees of the worker: metrics, through TorchServe's real cache, and its log."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass
from typing import Any

import pytest
from factories import (
    BLUE,
    GREEN,
    RED,
    TINY_LOCATOR,
    build_tiny_archive_dir,
    encode,
    photo,
    scene,
)
from torchserve_worker import EXPLANATIONS, Request, Worker


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Worker:
    directory = build_tiny_archive_dir(tmp_path_factory.mktemp("tiny"), locator=TINY_LOCATOR)
    return Worker(directory)


@dataclass(frozen=True)
class Emitted:
    """A metric in a line for TorchServe's frontend."""

    name: str
    value: float
    labels: str
    kind: str


def emitted(caplog: pytest.LogCaptureFixture) -> list[Emitted]:
    # As TorchServe's frontend takes them apart: name.unit:value|#labels|#type:KIND|#hostname:…
    line = re.compile(r"\[METRICS](\w+)\.\w+:([0-9\-,.e]+)\|#([^|]*)\|#type:([^|]+)\|#hostname:")
    matches = [line.match(record.message) for record in caplog.records]
    found = [match.groups() for match in matches if match]
    return [Emitted(name, float(value), labels, kind) for name, value, labels, kind in found]


def logged(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [json.loads(record.message) for record in caplog.records if record.message[0] == "{"]


MIXED = (
    Request({"data": photo(RED), "request_id": b"red-1"}),
    Request({"data": b"private text"}),
    Request({"data": photo(BLUE)}, EXPLANATIONS),
    Request({"data": photo(RED), "top_k": b"0", "request_id": b"no-top"}),
    Request({"data": encode(scene((GREEN, (320, 240, 480, 360))))}),
    Request(headers={"describe": "True"}),
)


def test_a_batch_is_counted_once_and_in_sum(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    worker.answer(*MIXED)
    lines = emitted(caplog)
    assert {line for line in lines if line.kind == "COUNTER"} == {
        Emitted(
            "car_identifier_answers_total",
            2,
            "model_version:1.0,verdict:identified,region:photo",
            "COUNTER",
        ),
        Emitted(
            "car_identifier_answers_total",
            1,
            "model_version:1.0,verdict:identified,region:found",
            "COUNTER",
        ),
        *(
            Emitted("car_identifier_errors_total", 1, f"model_version:1.0,code:{code}", "COUNTER")
            for code in ("unsupported_image_type", "invalid_option")
        ),
    }
    names = [line.name for line in lines if line.kind == "HISTOGRAM"]
    assert names.count("car_identifier_batch_size") == 1
    assert names.count("car_identifier_confidence") == 3
    assert names.count("car_identifier_stage_seconds") == 3 * 2
    [batch] = [line for line in lines if line.name == "car_identifier_batch_size"]
    assert batch.value == 5, "a question about the model is no photo"


def test_a_question_about_the_model_alone_is_neither_counted_nor_logged(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    worker.answer(Request(headers={"describe": "True"}))
    assert (emitted(caplog), logged(caplog)) == ([], [])


def test_each_request_is_logged_under_its_id(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    worker.answer(*MIXED)
    lines = {line["request_id"]: line for line in logged(caplog)}
    assert set(lines) == {"red-1", "torchserve-1", "torchserve-2", "no-top", "torchserve-4"}
    assert {line["batch_size"] for line in lines.values()} == {5}
    assert lines["red-1"]["verdict"] == "identified"
    assert lines["no-top"]["error"] == "invalid_option"
    assert lines["torchserve-1"]["status"] == 415
    assert lines["torchserve-4"]["region"] == "found"


def test_neither_headers_nor_photos_are_logged(
    worker: Worker, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    headers = {"Authorization": "Bearer s3cret-key"}
    worker.answer(
        Request({"data": b"private text"}, headers),
        Request({"data": photo(), "top_k": b"private option"}, headers),
        Request({"data": photo(), "request_id": b"private id"}, headers),
        Request({"data": photo(RED)}, {**headers, **EXPLANATIONS}),
    )
    told = caplog.text + "".join(capfd.readouterr())
    assert len(logged(caplog)) == 4
    assert "s3cret" not in told
    assert "private" not in told
    assert "Audi" not in told
