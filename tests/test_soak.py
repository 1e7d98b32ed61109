"""The soak test itself: it must see what is wrong, and pass where nothing is."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from live_stack import LiveStack

from benchmarks.soak.__main__ import main
from benchmarks.soak.clients import complaint
from benchmarks.soak.corpus import Expected, Request, make_files, make_requests
from benchmarks.soak.watch import GROWTH_BOUND_MB, fit_trend

ANSWERED = Expected(200, None, 3, (0.9, 0.05))
REFUSED = Expected(422, "image_unreadable")


def answer(class_id: int = 3, *confidences: float) -> dict[str, Any]:
    return {
        "class_id": class_id,
        "predictions": [{"confidence": it} for it in confidences or (0.9, 0.05)],
        "request_id": "r",
    }


def refusal(code: str = "image_unreadable") -> dict[str, Any]:
    return {"error": {"code": code, "message": "It is broken."}, "request_id": "r"}


def judged(expected: tuple[Expected, ...], status: int, body: object) -> str | None:
    request = Request("photo", "worker", b"", expected)
    return complaint(request, status, json.dumps(body).encode())


def test_right_answers_pass() -> None:
    assert judged((ANSWERED,), 200, answer()) is None
    assert judged((ANSWERED,), 200, answer(3, 0.9004, 0.0496)) is None
    assert judged((REFUSED,), 422, refusal()) is None


@pytest.mark.parametrize(
    ("expected", "status", "body"),
    [
        (ANSWERED, 422, refusal()),
        (ANSWERED, 200, answer(4)),
        (ANSWERED, 200, answer(3, 0.88, 0.05)),
        (ANSWERED, 200, answer(3, 0.9)),
        (ANSWERED, 200, {**answer(), "request_id": None}),
        (ANSWERED, 200, {"code": 507, "type": "InternalServerException"}),
        (ANSWERED, 200, []),
        (REFUSED, 200, answer()),
        (REFUSED, 500, refusal()),
        (REFUSED, 422, refusal("invalid_option")),
        (REFUSED, 422, {"error": {"code": "image_unreadable", "message": ""}, "request_id": "r"}),
    ],
)
def test_wrong_answers_are_seen(expected: Expected, status: int, body: object) -> None:
    assert judged((expected,), status, body)


def test_each_photo_of_a_form_is_judged() -> None:
    good = {"status": 200, "filename": "0.jpg", "answer": answer()}
    bad = {"status": 422, "filename": "1.jpg", "error": refusal()["error"]}
    assert judged((ANSWERED, REFUSED), 200, {"results": [good, bad]}) is None
    assert judged((ANSWERED, REFUSED), 200, {"results": [bad, good]})
    assert judged((ANSWERED, REFUSED), 200, {"results": [good]})


def test_an_answer_that_is_no_json_is_wrong() -> None:
    request = Request("photo", "worker", b"", (ANSWERED,))
    assert complaint(request, 200, b"<html>")


def test_two_classes_that_are_as_likely_may_change_places() -> None:
    even = Expected(200, None, 3, (0.4002, 0.4))
    assert judged((even,), 200, answer(4, 0.4002, 0.4)) is None


@pytest.mark.parametrize(
    ("per_request", "is_flat"), [(0.0, True), (0.001, True), (0.02, False), (-0.01, True)]
)
def test_memory_that_grows_is_told_from_memory_that_jumps(
    per_request: float, is_flat: bool
) -> None:
    samples = [(number, 300 + number * per_request) for number in range(0, 10_000, 10)]
    # The first requests fill pools, and a huge photo takes a gigabyte for a moment.
    samples = [(at, memory + 1500 * (at % 700 < 20) + 90 * (at < 1500)) for at, memory in samples]
    assert (fit_trend(samples).growth_mb <= GROWTH_BOUND_MB) == is_flat


def test_about_half_of_the_photos_are_good_and_the_same_seed_sends_the_same() -> None:
    files = make_files(None, 400, seed=1)
    # As a stand-in for the archive's word, whose half of the damaged files is not much.
    expected = {
        name: ANSWERED if name.startswith(("photo", "unusual")) else REFUSED for name in files
    }
    requests = list(make_requests(files, expected, 400, seed=1))
    assert requests == list(make_requests(files, expected, 400, seed=1))
    outcomes = [outcome.status == 200 for request in requests for outcome in request.expected]
    assert 0.4 < sum(outcomes) / len(outcomes) < 0.6
    assert {request.route for request in requests} == {"worker", "gateway"}
    assert {"photo", "unusual", "mutated", "bad", "bad option", "bad type", "form"} <= {
        request.kind for request in requests
    }


@pytest.mark.live
def test_a_short_run_against_the_real_service_passes(
    live_stack: LiveStack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = os.environ.get("CARID_ARCHIVE", "model_store/car_identifier.mar")
    status = main(
        [
            *("--requests=150", f"--archive={archive}", f"--out={tmp_path}"),
            *(f"--gateway={live_stack.url}", f"--inference={live_stack.inference_url}"),
            *(f"--management={live_stack.management_url}", f"--key-file={live_stack.key_file}"),
        ]
    )
    printed = capsys.readouterr().out
    assert "Wrong answers: 0." in printed, printed
    assert "no restart" in printed
    result = json.loads((tmp_path / "soak.json").read_text())
    assert (result["requests"], result["wrong"], result["restarted"]) == (150, [], False)
    assert (tmp_path / "soak.svg").read_text().startswith("<?xml")
    assert status == 0, printed
