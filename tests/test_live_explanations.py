"""TorchServe's /explanations, in the same batches as its /predictions."""

from __future__ import annotations

import base64
import io
import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from factories import BLUE, RED, encode, photo, scene
from live_stack import LiveStack
from PIL import Image

pytestmark = pytest.mark.live

PHOTOS = [photo(RED, (640, 480)), encode(scene((BLUE, (100, 100, 500, 400))), "PNG")]


def ask(stack: LiveStack, path: str, body: bytes, number: int = 0) -> requests.Response:
    key = json.loads(stack.key_file.read_text())["inference"]["key"]
    headers = {
        "Authorization": f"Bearer {key}",
        "Content-Type": "application/octet-stream",
        "request_id": f"{path}-{number}",
    }
    url = f"{stack.inference_url}/{path}/car_identifier"
    return requests.post(url, data=body, headers=headers, timeout=60)


def test_of_requests_that_mix_both_each_gets_what_it_asked_for(live_stack: LiveStack) -> None:
    # Neighbours with the same photo ask for different things.
    asked = [("predictions", "explanations")[number // 2 % 2] for number in range(64)]
    with ThreadPoolExecutor(16) as pool:
        replies = list(
            pool.map(
                lambda number: ask(live_stack, asked[number], PHOTOS[number % 2], number),
                range(len(asked)),
            )
        )
    assert {reply.status_code for reply in replies} == {200}
    answers = [reply.json() for reply in replies]
    for number, (path, answer) in enumerate(zip(asked, answers, strict=True)):
        assert answer["request_id"] == f"{path}-{number}"
        assert ("heatmap" in answer) == (path == "explanations")
        # Its own photo's answer: as sure of that class, whichever batch it was in.
        alike = answers[number % 2]
        again = {entry["class_id"]: entry["confidence"] for entry in answer["predictions"]}
        assert again[alike["class_id"]] == pytest.approx(alike["confidence"], abs=0.05)
    assert mixed_batches(live_stack) > 0, "or this has shown nothing"


def mixed_batches(stack: LiveStack) -> int:
    """How many batches held both, according to the worker's log."""
    log = (stack.run_dir / "torchserve.log").read_text()
    lines = [json.loads(line) for line in re.findall(r"MODEL_LOG - (\{.*\})$", log, re.MULTILINE)]
    mixed, position = 0, 0
    while position < len(lines):
        # The requests of a batch are logged one after the other.
        batch = lines[position : position + lines[position]["batch_size"]]
        position += len(batch)
        kinds = {str(line["request_id"]).partition("-")[0] for line in batch}
        mixed += {"predictions", "explanations"} <= kinds
    return mixed


def test_an_explanation_holds_a_grid_and_an_overlay_of_the_photo(live_stack: LiveStack) -> None:
    answer = ask(live_stack, "explanations", PHOTOS[0]).json()
    heatmap = answer["heatmap"]
    assert heatmap["class_id"] == answer["class_id"]
    assert len({len(row) for row in heatmap["grid"]}) == 1
    with Image.open(io.BytesIO(base64.b64decode(heatmap["png"]))) as overlay:
        assert overlay.format == "PNG"
        assert overlay.width / overlay.height == pytest.approx(640 / 480, rel=0.02)


def test_a_photo_that_cannot_be_explained_is_refused_like_any_other(
    live_stack: LiveStack,
) -> None:
    response = ask(live_stack, "explanations", b"I am a text, no photo.")
    code = response.json()["error"]["code"]
    assert (response.status_code, code) == (415, "unsupported_image_type")
