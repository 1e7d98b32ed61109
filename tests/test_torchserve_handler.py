"""What the TorchServe adapter makes of requests, whatever is in them and beside them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from factories import (
    BLUE,
    GREEN,
    RED,
    TINY_LABELS,
    TINY_LOCATOR,
    TINY_MANIFEST,
    build_tiny_archive_dir,
    encode,
    photo,
    scene,
)
from torchserve_worker import EXPLANATIONS, METRICS_YAML, Request, Worker
from ts.utils.util import list_classes_from_module

import handler.torchserve_handler
from handler.torchserve_handler import CarIdentifierHandler


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Worker:
    directory = build_tiny_archive_dir(tmp_path_factory.mktemp("tiny"), locator=TINY_LOCATOR)
    return Worker(directory)


def test_a_photo_is_answered_in_the_contracts_shape(worker: Worker) -> None:
    [reply] = worker.answer(Request({"data": bytearray(photo(RED))}))
    assert (reply.status, reply.content_type) == (200, "application/json")
    assert reply.label == "Audi TTS Coupe 2012"
    assert reply.body["request_id"] == "torchserve-0"
    assert reply.body["model_version"] == "1.0"
    assert len(reply.body["predictions"]) == len(TINY_LABELS)


@pytest.mark.parametrize("name", ["data", "body", "file"])
def test_the_photo_may_come_as_raw_body_or_multipart(worker: Worker, name: str) -> None:
    [reply] = worker.answer(Request({name: bytearray(photo(BLUE))}))
    assert reply.label == "BMW X5 SUV 2007"


def test_each_request_of_a_batch_has_its_own_status_and_answer(worker: Worker) -> None:
    replies = worker.answer(
        Request({"data": photo(RED)}),
        Request({"data": photo(RED)[:300]}),
        Request({"data": photo(GREEN), "top_k": b"2", "request_id": b"green-1"}),
        Request({"data": b"Hello"}),
        Request({"data": photo(RED), "top_k": b"0"}),
        Request(),
        Request({"data": b""}),
        Request({"data": photo(BLUE)}),
    )
    assert [reply.status for reply in replies] == [200, 422, 200, 415, 422, 400, 400, 200]
    assert [reply.code for reply in replies if reply.status != 200] == [
        "image_unreadable",
        "unsupported_image_type",
        "invalid_option",
        "image_missing",
        "image_missing",
    ]
    assert [reply.label for reply in replies if reply.status == 200] == [
        "Audi TTS Coupe 2012",
        "Aston Martin V8 Vantage Coupe 2012",
        "BMW X5 SUV 2007",
    ]
    assert {reply.content_type for reply in replies} == {"application/json"}
    ids = [reply.body["request_id"] for reply in replies]
    assert ids == [f"torchserve-{n}" if n != 2 else "green-1" for n in range(8)]
    assert len(replies[2].body["predictions"]) == 2
    assert replies[1].phrase == "Unprocessable Entity"


@pytest.mark.parametrize(
    "request_",
    [
        Request({"data": photo(), "top_k": b"1", "request_id": bytearray(b"id-1")}),
        Request({"data": photo(), "top_k": "1", "request_id": "id-1"}),
        Request({"body": photo()}, {"top_k": "1", "request_id": "id-1"}),
        Request({"body": photo()}, {"X-Top-K": "1", "X-Request-Id": "id-1"}),
        Request({"body": photo()}, {"x-top-k": "1", "x-request-id": "id-1"}),
        # A field is closer to the photo than a header that a proxy may have set.
        Request({"data": photo(), "request_id": b"id-1"}, {"X-Request-Id": "x", "top_k": "1"}),
    ],
)
def test_options_come_as_fields_or_headers(worker: Worker, request_: Request) -> None:
    [reply] = worker.answer(request_)
    assert len(reply.body["predictions"]) == 1
    assert reply.body["request_id"] == "id-1"


def test_an_error_carries_the_senders_request_id(worker: Worker) -> None:
    bad_photo, bad_option, bad_id = worker.answer(
        Request({"data": b"text", "request_id": b"id-1"}),
        Request({"data": photo(), "request_id": b"id-2", "top_k": b"99"}),
        Request({"data": photo(), "request_id": b"not an id"}),
    )
    assert bad_photo.body["request_id"] == "id-1"
    assert (bad_option.code, bad_option.body["request_id"]) == ("invalid_option", "id-2")
    assert (bad_id.code, bad_id.body["request_id"]) == ("invalid_option", "torchserve-2")


@pytest.mark.parametrize(
    ("value", "code"),
    [
        # How TorchServe hands over text and JSON bodies unless decode_input_request is off.
        ("Hello", "unsupported_image_type"),
        ({"a": 1}, "unsupported_image_type"),
        ([1, 2], "unsupported_image_type"),
        (7, "unsupported_image_type"),
        ("", "image_missing"),
        (None, "image_missing"),
    ],
)
def test_what_is_no_photo_is_refused_by_its_code(worker: Worker, value: object, code: str) -> None:
    good, bad = worker.answer(Request({"data": photo(RED)}), Request({"body": value}))
    assert good.label == "Audi TTS Coupe 2012"
    assert bad.code == code


def test_a_field_named_like_an_option_but_holding_nonsense_is_an_invalid_option(
    worker: Worker,
) -> None:
    [reply] = worker.answer(Request({"data": photo(), "top_k": b"\xff\xfe"}))
    assert (reply.status, reply.code) == (422, "invalid_option")


TWO_CARS = encode(scene((RED, (0, 0, 320, 480)), (BLUE, (320, 0, 640, 480))))


@pytest.mark.parametrize(
    "request_",
    [
        Request({"data": TWO_CARS, "box": b"320,0,640,480"}),
        Request({"body": TWO_CARS}, {"box": "320,0,640,480"}),
        Request({"body": TWO_CARS}, {"X-Box": "320, 0, 640, 480"}),
    ],
)
def test_the_box_comes_as_field_or_header(worker: Worker, request_: Request) -> None:
    whole, reply = worker.answer(Request({"data": TWO_CARS}), request_)
    assert whole.body["region"]["source"] != "box"
    assert reply.label == "BMW X5 SUV 2007"
    region = {"left": 320, "top": 0, "right": 640, "bottom": 480, "source": "box"}
    assert reply.body["region"] == region


@pytest.mark.parametrize("box", ["1,2,3", "9,0,5,9", "car", "640,0,700,480", "", "\udcff"])
def test_a_bad_box_is_an_invalid_option_of_its_own_request(worker: Worker, box: str) -> None:
    sent = box.encode(errors="surrogateescape")
    bad, good = worker.answer(
        Request({"data": TWO_CARS, "box": sent, "request_id": b"id-1"}),
        Request({"data": photo(RED)}),
    )
    assert (bad.status, bad.code, bad.body["request_id"]) == (422, "invalid_option", "id-1")
    assert good.label == "Audi TTS Coupe 2012"


@pytest.mark.parametrize("asked", [(True, False, False, True), (False, True, True, False)])
def test_whoever_asked_for_an_explanation_and_nobody_else_gets_one(
    worker: Worker, asked: tuple[bool, ...]
) -> None:
    replies = worker.answer(
        *(Request({"body": photo(BLUE)}, EXPLANATIONS if wants else {}) for wants in asked),
        Request({"body": b"text"}, EXPLANATIONS),
    )
    assert [reply.status for reply in replies] == [200] * len(asked) + [415]
    assert tuple("heatmap" in reply.body for reply in replies[:-1]) == asked
    assert {reply.label for reply in replies[:-1]} == {"BMW X5 SUV 2007"}
    [explained] = {json.dumps(one.body["heatmap"]) for one in replies if "heatmap" in one.body}
    assert json.loads(explained)["class_id"] == 2


def test_an_explanation_can_be_asked_for_with_a_prediction_and_be_done_without(
    worker: Worker,
) -> None:
    asked, declined, unclear = worker.answer(
        Request({"data": photo(), "explain": b"true"}),
        Request({"data": photo(), "explain": b"false"}, EXPLANATIONS),
        Request({"data": photo(), "explain": b"perhaps"}),
    )
    assert "heatmap" in asked.body
    assert "heatmap" not in declined.body
    assert unclear.code == "invalid_option"


def test_a_describe_request_gets_the_labels_also_beside_photos(worker: Worker) -> None:
    described, photographed = worker.answer(
        Request(headers={"describe": "True"}), Request({"data": photo(RED)})
    )
    assert described.status == 200
    assert [label["label"] for label in described.body["labels"]] == [
        label.label for label in TINY_LABELS
    ]
    assert described.body["model_version"] == TINY_MANIFEST.version
    assert described.body["metrics"] == TINY_MANIFEST.metrics
    assert photographed.label == "Audi TTS Coupe 2012"


# --- loading ----------------------------------------------------------------------------------


def test_a_broken_archive_ends_the_worker_with_one_line_that_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = build_tiny_archive_dir(tmp_path)
    (directory / "labels.csv").unlink()
    with pytest.raises(SystemExit) as stopped:
        Worker(directory)
    assert stopped.value.code == 1
    [record] = caplog.records
    assert record.levelname == "ERROR"
    assert "car_identifier can't be served: can't read labels.csv" in record.message
    assert "\n" not in record.message


def test_threads_come_from_the_archives_yaml(tmp_path: Path) -> None:
    worker = Worker(build_tiny_archive_dir(tmp_path), {"handler": {"threads": 1}})
    [reply] = worker.answer(Request({"data": photo(RED)}))
    assert reply.label == "Audi TTS Coupe 2012"


def test_torchserve_finds_the_one_class_it_looks_for() -> None:
    assert list_classes_from_module(handler.torchserve_handler) == [CarIdentifierHandler]


def test_the_archives_own_code_wins_over_another_handler_that_is_installed(tmp_path: Path) -> None:
    package = Path(handler.torchserve_handler.__file__).parent
    archive = build_tiny_archive_dir(tmp_path / "archive")
    shutil.copytree(package, archive / "handler", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(package / "torchserve_handler.py", archive)
    decoy = tmp_path / "installed" / "handler"
    decoy.mkdir(parents=True)
    (decoy / "__init__.py").write_text("raise RuntimeError('the installed one was imported')")
    program = (
        "import sys\n"
        "from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl\n"
        "from ts.model_loader import TsModelLoader\n"
        "TsModelLoader().load(\n"
        "    'car_identifier', sys.argv[1], 'torchserve_handler.py', gpu_id=None, batch_size=8,\n"
        "    metrics_cache=MetricsCacheYamlImpl(sys.argv[2]))\n"
        "print(sys.modules['handler'].__file__)"
    )
    # TorchServe starts its worker with the archive behind whatever PYTHONPATH held before.
    result = subprocess.run(
        [sys.executable, "-c", program, str(archive), str(METRICS_YAML)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{decoy.parent}{os.pathsep}{archive}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == str(archive / "handler" / "__init__.py")
