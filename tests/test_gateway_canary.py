"""A new version on trial: its share, its comparisons, and that it costs nobody an answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from gateway_fixtures import (
    BROKEN_PHOTO,
    HUMMER,
    NO_JSON,
    PHOTO,
    QUEUE_FULL,
    WORKER_DIED,
    Gateway,
    StandInTorchServe,
    assert_error,
    identify,
    wait_for,
)
from starlette.responses import JSONResponse, Response

REFUSAL = JSONResponse({"error": {"code": "image_unreadable", "message": "no"}}, 422)


@pytest.fixture
def canary(torchserve: StandInTorchServe) -> Callable[[object], None]:
    """Writes the canary's file, and has TorchServe serve it."""
    torchserve.others["1.1"] = ["READY"]

    def write(content: object) -> None:
        text = content if isinstance(content, str) else json.dumps(content)
        path = torchserve.key_file.with_name("canary.json")
        path.with_suffix(".new").write_text(text)
        path.with_suffix(".new").replace(path)

    return write


def versions(gateway: Gateway, requests_: int, **request: object) -> list[str]:
    """Which versions answered that many requests."""
    return [identify(gateway, PHOTO, **request).json()["model_version"] for _ in range(requests_)]


def status(gateway: Gateway) -> dict[str, Any] | None:
    return requests.get(f"{gateway.url}/v1/models", timeout=30).json()["canary"]


def status_when(gateway: Gateway, **expected: int) -> dict[str, Any]:
    """The canary's counts, once they are so."""
    wait_for(lambda: expected.items() <= (status(gateway) or {}).items())
    now = status(gateway)
    assert now
    return now


def counts_after(
    gateway: Gateway, torchserve: StandInTorchServe, photos: int
) -> tuple[object, object, object]:
    """How many were compared, agreed and failed when that many photos, comparisons included, have
    been answered and nothing is under way any more.
    """
    wait_for(lambda: len(torchserve.photos) >= photos)
    wait_for(
        lambda: (
            "carid_gateway_photos_under_way 0.0"
            in requests.get(f"{gateway.url}/metrics", timeout=30).text
        )
    )
    assert len(torchserve.photos) == photos
    now = status(gateway)
    assert now
    return now["compared"], now["agreed"], now["failed"]


class TestTheShare:
    def test_without_a_file_there_is_none(self, gateway: Gateway) -> None:
        assert status(gateway) is None
        assert set(versions(gateway, 3)) == {"1.0"}

    def test_a_file_counts_at_once_and_until_it_is_gone(
        self, gateway: Gateway, torchserve: StandInTorchServe, canary: Callable[[object], None]
    ) -> None:
        assert versions(gateway, 1) == ["1.0"]
        canary({"version": "1.1", "share": 1})
        assert set(versions(gateway, 3)) == {"1.1"}
        canary({"version": "1.1", "share": 0.0})
        assert set(versions(gateway, 3)) == {"1.0"}
        torchserve.key_file.with_name("canary.json").unlink()
        assert status(gateway) is None

    def test_about_that_share_of_requests_goes_to_it(
        self, gateway: Gateway, canary: Callable[[object], None]
    ) -> None:
        canary({"version": "1.1", "share": 0.5})
        answered = versions(gateway, 60)
        assert 10 <= answered.count("1.1") <= 50  # outside of it once in ten million runs

    def test_who_asks_for_a_version_gets_it(
        self, gateway: Gateway, canary: Callable[[object], None]
    ) -> None:
        canary({"version": "1.1", "share": 1.0})
        assert versions(gateway, 2, params={"version": "1.0"}) == ["1.0"] * 2

    def test_the_photos_of_a_request_stay_together(
        self, gateway: Gateway, canary: Callable[[object], None]
    ) -> None:
        canary({"version": "1.1", "share": 0.5})
        for _ in range(8):
            results = identify(gateway, PHOTO, PHOTO, PHOTO).json()["results"]
            assert len({result["answer"]["model_version"] for result in results}) == 1

    @pytest.mark.parametrize(
        "content",
        [
            "{",
            "[]",
            {"version": "1.1"},
            {"version": "1.1", "share": 2},
            {"version": "1.1", "share": "all"},
            {"version": "../token", "share": 1.0},
            {"version": "1.1", "share": 1.0, "until": "Friday"},
        ],
        ids=str,
    )
    def test_a_file_that_makes_no_sense_is_none_and_the_log_says_so(
        self,
        gateway: Gateway,
        canary: Callable[[object], None],
        caplog: pytest.LogCaptureFixture,
        content: object,
    ) -> None:
        canary(content)
        assert set(versions(gateway, 3)) == {"1.0"}
        assert caplog.text.count("canary.json can't be read") == 1


class TestComparisons:
    def test_answers_are_compared_with_the_default_versions(
        self, gateway: Gateway, torchserve: StandInTorchServe, canary: Callable[[object], None]
    ) -> None:
        canary({"version": "1.1", "share": 1.0})
        versions(gateway, 1)
        assert status_when(gateway, compared=1) == {
            "version": "1.1",
            "share": 1.0,
            "compared": 1,
            "agreed": 1,
            "failed": 0,
        }
        torchserve.sees["1.1"] = HUMMER
        versions(gateway, 2)
        counts = status_when(gateway, compared=3)
        assert (counts["compared"], counts["agreed"]) == (3, 1)
        metrics = requests.get(f"{gateway.url}/metrics", timeout=30).text
        assert "carid_gateway_canary_compared_total 3.0" in metrics
        assert "carid_gateway_canary_agreed_total 1.0" in metrics

    def test_the_same_photo_and_box_are_asked_about(
        self, gateway: Gateway, torchserve: StandInTorchServe, canary: Callable[[object], None]
    ) -> None:
        canary({"version": "1.1", "share": 1.0})
        identify(gateway, PHOTO, params={"box": "1,2,3,4", "explain": "true", "top_k": 7})
        status_when(gateway, compared=1)
        assert torchserve.asked == [
            {"version": "1.1", "top_k": "7", "explain": True, "box": "1,2,3,4"},
            {"version": None, "top_k": "1", "explain": False, "box": "1,2,3,4"},
        ]
        assert [photo for _, photo in torchserve.photos] == [PHOTO, PHOTO]

    def test_the_sender_does_not_wait_for_them(
        self, gateway: Gateway, torchserve: StandInTorchServe, canary: Callable[[object], None]
    ) -> None:
        canary({"version": "1.1", "share": 1.0})
        with torchserve.holding("1.0"):
            assert versions(gateway, 1) == ["1.1"]
            wait_for(lambda: len(torchserve.photos) == 2)
            assert status_when(gateway)["compared"] == 0
        assert status_when(gateway, compared=1)["compared"] == 1

    def test_nor_does_their_failure_touch_anyone(
        self, gateway: Gateway, torchserve: StandInTorchServe, canary: Callable[[object], None]
    ) -> None:
        canary({"version": "1.1", "share": 1.0})
        torchserve.broken["1.0"] = WORKER_DIED
        assert versions(gateway, 3) == ["1.1"] * 3
        assert counts_after(gateway, torchserve, photos=6) == (0, 0, 0)
        assert versions(gateway, 1) == ["1.1"]

    def test_there_are_none_while_the_worker_is_busy(
        self,
        start_gateway: Callable[..., Gateway],
        torchserve: StandInTorchServe,
        canary: Callable[[object], None],
    ) -> None:
        canary({"version": "1.1", "share": 1.0})
        gateway = start_gateway(photos_in_flight=2)
        torchserve.others["1.2"] = ["READY"]
        with ThreadPoolExecutor(2) as pool, torchserve.holding("1.2"):
            busy = [pool.submit(versions, gateway, 1, params={"version": "1.2"}) for _ in "ab"]
            wait_for(lambda: len(torchserve.photos) == 2)
            assert versions(gateway, 2) == ["1.1", "1.1"]
        assert [request.result() for request in busy] == [["1.2"], ["1.2"]]
        assert counts_after(gateway, torchserve, photos=4) == (0, 0, 0)

    def test_nor_while_memory_is_short(
        self,
        start_gateway: Callable[..., Gateway],
        torchserve: StandInTorchServe,
        canary: Callable[[object], None],
    ) -> None:
        canary({"version": "1.1", "share": 1.0})
        gateway = start_gateway(upload_memory_bytes=2500)
        with torchserve.holding("1.0"):
            for photos, size in ((2, 2000), (4, 400)):
                assert identify(gateway, bytes(size)).status_code == 200
                wait_for(lambda photos=photos: len(torchserve.photos) == photos)
            # They are being compared, and hold their photos: there is no room for much else.
            assert_error(identify(gateway, bytes(1000)), 503, "server_busy")
        assert status_when(gateway, compared=2)["compared"] == 2
        assert identify(gateway, bytes(2500)).status_code == 200

    def test_a_canary_that_has_become_the_default_is_not_compared_with_itself(
        self, gateway: Gateway, torchserve: StandInTorchServe, canary: Callable[[object], None]
    ) -> None:
        canary({"version": "1.1", "share": 1.0})
        torchserve.version, torchserve.others = "1.1", {"1.0": ["READY"]}
        versions(gateway, 3)
        assert counts_after(gateway, torchserve, photos=6) == (0, 0, 0)

    def test_another_canary_counts_from_nought_another_share_does_not(
        self, gateway: Gateway, torchserve: StandInTorchServe, canary: Callable[[object], None]
    ) -> None:
        canary({"version": "1.1", "share": 1.0})
        versions(gateway, 1)
        status_when(gateway, compared=1)
        canary({"version": "1.1", "share": 0.5})
        assert status_when(gateway, share=0.5)["compared"] == 1
        torchserve.others["1.2"] = ["READY"]
        canary({"version": "1.2", "share": 0.5})
        assert status_when(gateway, share=0.5)["compared"] == 0


class TestACanaryThatFails:
    @pytest.mark.parametrize(
        "failure",
        [WORKER_DIED, QUEUE_FULL, NO_JSON, REFUSAL],
        ids=["died", "full", "no JSON", "refuses what the default answers"],
    )
    def test_costs_nobody_an_answer(
        self,
        gateway: Gateway,
        torchserve: StandInTorchServe,
        canary: Callable[[object], None],
        failure: Response,
    ) -> None:
        canary({"version": "1.1", "share": 1.0})
        torchserve.broken["1.1"] = failure
        assert versions(gateway, 3) == ["1.0"] * 3
        assert status_when(gateway, failed=3)["failed"] == 3

    def test_nor_does_one_that_is_not_served(
        self, gateway: Gateway, torchserve: StandInTorchServe, canary: Callable[[object], None]
    ) -> None:
        canary({"version": "1.7", "share": 1.0})
        assert versions(gateway, 2) == ["1.0"] * 2

    def test_nor_one_that_hangs(
        self,
        start_gateway: Callable[..., Gateway],
        torchserve: StandInTorchServe,
        canary: Callable[[object], None],
    ) -> None:
        canary({"version": "1.1", "share": 1.0})
        # So that it is not the limit of all answers that helps.
        gateway = start_gateway(canary_timeout_s=0.3, answer_timeout_s=600)
        with torchserve.holding("1.1"):
            assert versions(gateway, 1) == ["1.0"]
        assert status_when(gateway)["failed"] == 1

    def test_a_photo_that_both_refuse_is_the_photos_fault(
        self, gateway: Gateway, canary: Callable[[object], None]
    ) -> None:
        canary({"version": "1.1", "share": 1.0})
        assert_error(identify(gateway, BROKEN_PHOTO), 422, "image_unreadable")
        assert status_when(gateway)["failed"] == 0

    def test_its_answers_are_no_proof_that_the_default_version_is_ready(
        self, gateway: Gateway, torchserve: StandInTorchServe, canary: Callable[[object], None]
    ) -> None:
        canary({"version": "1.1", "share": 1.0})
        torchserve.broken["1.0"] = WORKER_DIED
        assert versions(gateway, 1) == ["1.1"]
        response = requests.get(f"{gateway.url}/readyz", timeout=30)
        assert_error(response, 503, "not_ready")
