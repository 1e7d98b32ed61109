"""The gateway before the real TorchServe: options, versions, canaries, and a worker that hangs."""

from __future__ import annotations

import base64
import io
import json
import os
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from factories import GREY, RED, encode, photo, scene
from gateway_fixtures import assert_error, serving, wait_for
from live_stack import (
    ROOT,
    LiveStack,
    frozen_worker,
    manage,
    running_stack,
    wait_until_ready,
)
from PIL import Image

from gateway.app import create_app
from gateway.settings import Settings

pytestmark = pytest.mark.live

PHOTO = photo(RED, (640, 480))
LEFT, RIGHT = (40, 100, 300, 380), (340, 100, 600, 380)
TWO_CARS = encode(scene((RED, LEFT), (GREY, RIGHT)), "PNG")


def post(url: str, body: bytes = PHOTO, **request: Any) -> requests.Response:
    headers = {"Content-Type": "application/octet-stream", **request.pop("headers", {})}
    return requests.post(f"{url}/v1/identify", data=body, headers=headers, timeout=60, **request)


class TestOptions:
    def test_a_heatmap_of_the_photo_comes_if_it_was_asked_for(self, live_stack: LiveStack) -> None:
        answer = post(live_stack.url, params={"explain": "true"}).json()
        heatmap = answer["heatmap"]
        assert heatmap["class_id"] == answer["class_id"]
        assert len({len(row) for row in heatmap["grid"]}) == 1
        with Image.open(io.BytesIO(base64.b64decode(heatmap["png"]))) as overlay:
            assert overlay.format == "PNG"
            assert overlay.width / overlay.height == pytest.approx(640 / 480, rel=0.02)
        assert "heatmap" not in post(live_stack.url).json()

    def test_a_box_is_what_the_worker_reads(self, live_stack: LiveStack) -> None:
        for box in (LEFT, RIGHT):
            text = ",".join(map(str, box))
            region = post(live_stack.url, TWO_CARS, params={"box": text}).json()["region"]
            assert region == {
                **dict(zip(("left", "top", "right", "bottom"), box, strict=True)),
                "source": "box",
            }

    def test_a_box_outside_of_the_photo_is_named(self, live_stack: LiveStack) -> None:
        response = post(live_stack.url, params={"box": "5000,5000,5100,5100"})
        assert "box" in assert_error(response, 422, "invalid_option")

    def test_the_served_version_can_be_asked_for_by_name(self, live_stack: LiveStack) -> None:
        served = requests.get(f"{live_stack.url}/v1/models", timeout=30).json()["default_version"]
        answer = post(live_stack.url, params={"version": served}).json()
        assert answer["model_version"] == served

    @pytest.mark.parametrize("version", ["9.9", "all", "1"])
    def test_an_unknown_version(self, live_stack: LiveStack, version: str) -> None:
        for explain in ("false", "true"):
            response = post(live_stack.url, params={"version": version, "explain": explain})
            assert repr(version) in assert_error(response, 404, "unknown_version")

    def test_all_of_them_at_once_and_in_json(self, live_stack: LiveStack) -> None:
        served = requests.get(f"{live_stack.url}/v1/models", timeout=30).json()["default_version"]
        body = {
            "images": [base64.b64encode(data).decode() for data in (TWO_CARS, b"text", TWO_CARS)],
            "version": served,
            "explain": True,
            "box": list(LEFT),
            "top_k": 3,
        }
        headers = {"Content-Type": "application/json"}
        results = post(live_stack.url, json.dumps(body).encode(), headers=headers).json()["results"]
        assert [result["status"] for result in results] == [200, 415, 200]
        for result in (results[0], results[2]):
            answer = result["answer"]
            assert len(answer["predictions"]) == 3
            assert answer["region"]["source"] == "box"
            assert answer["heatmap"]["grid"]


class TestJson:
    def test_a_photo_is_answered_as_its_bytes_are(self, live_stack: LiveStack) -> None:
        headers = {"Content-Type": "application/json", "X-Request-Id": "same"}
        body = json.dumps({"image": base64.b64encode(PHOTO).decode()}).encode()
        as_json = post(live_stack.url, body, headers=headers).json()
        as_bytes = post(live_stack.url, headers={"X-Request-Id": "same"}).json()
        timings = [answer.pop("timing_ms") for answer in (as_json, as_bytes)]
        assert all(timing["inference"] > 0 for timing in timings)
        assert as_json == as_bytes

    def test_a_photo_of_almost_20_megabytes(self, live_stack: LiveStack) -> None:
        data = PHOTO + bytes(20 * 2**20 - len(PHOTO))
        body = json.dumps({"image": base64.b64encode(data).decode()}).encode()
        headers = {"Content-Type": "application/json"}
        assert post(live_stack.url, body, headers=headers).status_code == 200
        body = json.dumps({"image": base64.b64encode(data + b"!").decode()}).encode()
        response = post(live_stack.url, body, headers=headers)
        assert_error(response, 413, "image_too_large")


class TestOtherAddresses:
    def test_models(self, live_stack: LiveStack) -> None:
        served = requests.get(f"{live_stack.url}/v1/models", timeout=30).json()
        answer = post(live_stack.url).json()
        assert served == {
            "name": "car_identifier",
            "default_version": answer["model_version"],
            "versions": [
                {
                    "version": answer["model_version"],
                    "default": True,
                    "ready_workers": 1,
                    "workers": 1,
                }
            ],
            "canary": None,
        }

    def test_the_predecessors_address(self, live_stack: LiveStack) -> None:
        address = f"{live_stack.url}/cars/v1/get_car_details"
        assert "<form" in requests.get(address, timeout=30).text
        answer = requests.post(address, files={"file": PHOTO}, timeout=60).json()
        assert answer["class"] == answer["class_id"] == post(live_stack.url).json()["class_id"]
        assert answer["car_details"] == answer["label"]

    @pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
    @pytest.mark.parametrize(
        "path",
        [
            "/models",
            "/models/car_identifier",
            "/models/car_identifier/all",
            "/predictions/car_identifier",
            "/explanations/car_identifier",
            "/ping",
            "/token?type=management",
            "/api-description",
        ],
    )
    def test_nothing_of_torchserve(self, live_stack: LiveStack, method: str, path: str) -> None:
        # With the keys that would open it, too.
        keys = json.loads(live_stack.key_file.read_text())
        for key in ("", keys["management"]["key"], keys["API"]["key"]):
            headers = {"X-TorchServe-Key": key, "token": key}
            response = requests.request(method, live_stack.url + path, headers=headers, timeout=30)
            assert_error(response, 404, "not_found")


def test_a_worker_that_hangs_is_a_timeout(live_stack: LiveStack) -> None:
    settings = Settings(
        inference_url=live_stack.inference_url,
        management_url=live_stack.management_url,
        key_file=live_stack.key_file,
        answer_timeout_s=1,
    )
    with serving(create_app(settings)) as url:
        assert post(live_stack.url).status_code == 200
        with frozen_worker(live_stack):
            start = time.monotonic()
            assert_error(post(url), 504, "timeout")
            assert time.monotonic() - start >= 1
        assert post(live_stack.url).status_code == 200


@pytest.fixture(scope="module")
def two_versions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveStack]:
    """A service of its own, with the bundled archive as version 1.0 and as 2.0."""
    store = tmp_path_factory.mktemp("store")
    archive = Path(os.environ.get("CARID_ARCHIVE", ROOT / "model_store" / "car_identifier.mar"))
    for version in ("1.0", "2.0"):
        renumber(archive, store / f"{version}.mar", version)
    run_dir = tmp_path_factory.mktemp("run")
    with running_stack(run_dir, "--archive", str(store / "1.0.mar")) as stack:
        wait_until_ready(stack)
        manage(
            stack,
            "POST",
            "/models",
            url="2.0.mar",
            model_name="car_identifier",
            initial_workers=1,
            synchronous="true",
        )
        yield stack


class TestTwoVersions:
    def served(self, two_versions: LiveStack) -> dict[str, Any]:
        return requests.get(f"{two_versions.url}/v1/models", timeout=30).json()

    def test_both_are_listed_and_answer(self, two_versions: LiveStack) -> None:
        assert [
            (it["version"], it["default"], it["ready_workers"])
            for it in self.served(two_versions)["versions"]
        ] == [("1.0", True, 1), ("2.0", False, 1)]
        for query, version in (
            ({}, "1.0"),
            ({"version": "2.0"}, "2.0"),
            ({"version": "1.0"}, "1.0"),
        ):
            assert post(two_versions.url, params=query).json()["model_version"] == version

    def test_a_canary_is_compared_and_then_fails_without_anyone_noticing(
        self, two_versions: LiveStack
    ) -> None:
        canary_file = two_versions.run_dir / "canary.json"
        canary_file.write_text('{"version": "2.0", "share": 1.0}')
        answers = [post(two_versions.url).json() for _ in range(5)]
        assert {answer["model_version"] for answer in answers} == {"2.0"}
        wait_for(lambda: self.served(two_versions)["canary"]["compared"] == 5)
        assert self.served(two_versions)["canary"] == {
            "version": "2.0", "share": 1.0, "compared": 5, "agreed": 5, "failed": 0,
        }  # fmt: skip

        canary_file.write_text('{"version": "2.0", "share": 0.5}')
        with ThreadPoolExecutor(8) as pool:
            load = [pool.submit(post, two_versions.url) for _ in range(120)]
            wait_for(lambda: sum(request.done() for request in load) >= 8)
            manage(
                two_versions, "PUT", "/models/car_identifier/2.0", min_worker=0, synchronous="true"
            )
            replies = [request.result() for request in load]
        assert [reply.status_code for reply in replies] == [200] * 120
        answers = [post(two_versions.url).json() for _ in range(8)]
        assert {answer["model_version"] for answer in answers} == {"1.0"}
        assert self.served(two_versions)["canary"]["failed"] > 0
        canary_file.unlink()
        assert self.served(two_versions)["canary"] is None

    def test_a_new_default_is_noticed(self, two_versions: LiveStack) -> None:
        manage(two_versions, "PUT", "/models/car_identifier/2.0", min_worker=1, synchronous="true")
        manage(two_versions, "PUT", "/models/car_identifier/2.0/set-default")
        assert post(two_versions.url).json()["model_version"] == "2.0"
        assert self.served(two_versions)["default_version"] == "2.0"
        manage(two_versions, "DELETE", "/models/car_identifier/1.0")
        assert_error(post(two_versions.url, params={"version": "1.0"}), 404, "unknown_version")


def renumber(archive: Path, copy: Path, version: str) -> None:
    """Copy an archive as another version of the model."""
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(copy, "w") as target:
        for entry in source.infolist():
            data = source.read(entry)
            if entry.filename == "MAR-INF/MANIFEST.json":
                manifest = json.loads(data)
                manifest["model"]["modelVersion"] = version
                data = json.dumps(manifest).encode()
            elif entry.filename == "model.json":
                data = json.dumps({**json.loads(data), "version": version}).encode()
            target.writestr(entry, data)
