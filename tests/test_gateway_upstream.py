"""The gateway and TorchServe's moods: failures, keys, readiness, labels."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import requests
from gateway_fixtures import (
    CAR,
    NO_JSON,
    NOT_REGISTERED,
    PHOTO,
    QUEUE_FULL,
    TOO_LARGE,
    WORKER_DIED,
    Gateway,
    StandInTorchServe,
    assert_error,
    identify,
    wait_for,
)
from starlette.responses import Response

from gateway.health import probe_photo


class TestTorchServeInTrouble:
    @pytest.mark.parametrize(
        ("failure", "status", "code"),
        [
            (WORKER_DIED, 503, "model_unavailable"),
            (QUEUE_FULL, 503, "server_busy"),
            (NOT_REGISTERED, 503, "model_unavailable"),
            (TOO_LARGE, 413, "image_too_large"),  # its max_request_size is set too small
            (NO_JSON, 500, "internal_error"),
        ],
        ids=["worker died", "queue full", "not registered", "too large", "no JSON"],
    )
    def test_its_answers_become_the_contracts(
        self,
        gateway: Gateway,
        torchserve: StandInTorchServe,
        failure: Response,
        status: int,
        code: str,
    ) -> None:
        torchserve.failures.append(failure)
        response = identify(gateway, PHOTO)
        message = assert_error(response, status, code)
        assert "orker" not in message, "the inside is not the caller's business"
        assert ("Retry-After" in response.headers) == (status == 503)
        assert identify(gateway, PHOTO).status_code == 200

    def test_a_slow_answer_is_a_timeout(
        self, start_gateway: Callable[..., Gateway], torchserve: StandInTorchServe
    ) -> None:
        gateway = start_gateway(answer_timeout_s=0.2)
        with torchserve.holding():
            assert_error(identify(gateway, PHOTO), 504, "timeout")

    def test_photos_whose_turn_does_not_come_are_told_to_come_back(
        self, start_gateway: Callable[..., Gateway], torchserve: StandInTorchServe
    ) -> None:
        gateway = start_gateway(upstream_connections=2, queue_timeout_s=0.3)
        with ThreadPoolExecutor(6) as pool, torchserve.holding():
            calls = [pool.submit(identify, gateway, PHOTO) for _ in range(6)]
            wait_for(lambda: sum(call.done() for call in calls) == 4)
        assert sorted(call.result().status_code for call in calls) == [200] * 2 + [503] * 4
        assert identify(gateway, PHOTO).status_code == 200

    def test_it_is_not_there(self, start_gateway: Callable[..., Gateway]) -> None:
        gateway = start_gateway(inference_url="http://127.0.0.1:9")
        response = identify(gateway, PHOTO)
        message = assert_error(response, 503, "model_unavailable")
        assert "127.0.0.1" not in message
        assert response.headers["Retry-After"] == "3"

    def test_it_has_written_no_key_file_yet(
        self, gateway: Gateway, torchserve: StandInTorchServe
    ) -> None:
        torchserve.key_file.unlink()
        message = assert_error(identify(gateway, PHOTO), 503, "model_unavailable")
        assert str(torchserve.key_file) not in message
        torchserve.write_key_file()
        assert identify(gateway, PHOTO).status_code == 200

    def test_it_is_writing_its_key_file(
        self, gateway: Gateway, torchserve: StandInTorchServe, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read_bytes, seen = Path.read_bytes, []

        def read_while_it_writes(path: Path) -> bytes:
            if path == torchserve.key_file:
                seen.append(path)
            return b'{"management": {"key": "ab' if len(seen) == 1 else read_bytes(path)

        monkeypatch.setattr(Path, "read_bytes", read_while_it_writes)
        assert identify(gateway, PHOTO).status_code == 200
        assert len(seen) > 1


class TestKeys:
    def test_a_restarted_torchserve_is_answered_with_its_new_key(
        self, gateway: Gateway, torchserve: StandInTorchServe
    ) -> None:
        assert identify(gateway, PHOTO).status_code == 200
        torchserve.start_anew()
        assert identify(gateway, PHOTO).status_code == 200
        assert torchserve.renewals == 0, "the new key was in the file"

    def test_a_refused_key_is_renewed(
        self, gateway: Gateway, torchserve: StandInTorchServe
    ) -> None:
        assert identify(gateway, PHOTO).status_code == 200
        torchserve.expire("inference")
        assert identify(gateway, PHOTO).status_code == 200
        assert torchserve.renewals == 1

    def test_a_key_near_its_end_is_renewed_before_a_photo_is_sent(
        self, gateway: Gateway, torchserve: StandInTorchServe
    ) -> None:
        torchserve.write_key_file(valid_for=timedelta(seconds=2))
        assert identify(gateway, PHOTO).status_code == 200
        assert (torchserve.renewals, len(torchserve.photos)) == (1, 1)

    def test_all_requests_share_one_renewal(
        self, gateway: Gateway, torchserve: StandInTorchServe
    ) -> None:
        assert identify(gateway, PHOTO).status_code == 200
        torchserve.expire("inference")
        with ThreadPoolExecutor(8) as pool:
            responses = list(pool.map(lambda _: identify(gateway, PHOTO), range(8)))
        assert {response.status_code for response in responses} == {200}
        assert torchserve.renewals == 1

    def test_keys_of_another_torchserve_are_no_endless_loop(
        self, gateway: Gateway, torchserve: StandInTorchServe
    ) -> None:
        torchserve.keys = dict.fromkeys(torchserve.keys, "known to nobody")
        assert_error(identify(gateway, PHOTO), 503, "model_unavailable")

    def test_keys_are_never_logged(
        self, gateway: Gateway, torchserve: StandInTorchServe, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("DEBUG", "gateway")
        identify(gateway, PHOTO)
        torchserve.expire("inference")
        identify(gateway, PHOTO)
        assert caplog.text
        assert not any(key in caplog.text for key in torchserve.keys.values())


class TestHealth:
    def test_alive_even_without_torchserve(self, start_gateway: Callable[..., Gateway]) -> None:
        gateway = start_gateway(inference_url="http://127.0.0.1:9")
        assert requests.get(f"{gateway.url}/healthz", timeout=30).json() == {"status": "alive"}

    def test_ready_when_a_photo_was_answered(
        self, gateway: Gateway, torchserve: StandInTorchServe
    ) -> None:
        assert requests.get(f"{gateway.url}/readyz", timeout=30).json() == {"status": "ready"}
        assert [photo for _, photo in torchserve.photos] == [probe_photo()]

    def test_asking_often_is_cheap(self, gateway: Gateway, torchserve: StandInTorchServe) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: requests.get(f"{gateway.url}/readyz", timeout=30), range(40)))
        assert len(torchserve.photos) == 1

    def test_traffic_is_proof_enough(self, gateway: Gateway, torchserve: StandInTorchServe) -> None:
        identify(gateway, PHOTO)
        torchserve.failures.append(QUEUE_FULL)
        assert requests.get(f"{gateway.url}/readyz", timeout=30).status_code == 200
        assert len(torchserve.photos) == 1

    def test_an_answer_counts_only_while_it_is_recent(
        self, start_gateway: Callable[..., Gateway], torchserve: StandInTorchServe
    ) -> None:
        gateway = start_gateway(ready_ttl_s=0)
        assert identify(gateway, PHOTO).status_code == 200
        torchserve.failures.append(WORKER_DIED)
        response = requests.get(f"{gateway.url}/readyz", timeout=30)
        assert_error(response, 503, "not_ready")

    @pytest.mark.parametrize("workers", [[], ["UNLOADED"]], ids=str)
    def test_not_ready_without_a_loaded_worker(
        self, gateway: Gateway, torchserve: StandInTorchServe, workers: list[str]
    ) -> None:
        torchserve.workers = workers
        response = requests.get(f"{gateway.url}/readyz", timeout=30)
        assert "no worker that is ready" in assert_error(response, 503, "not_ready")
        assert response.headers["Retry-After"] == "2"

    def test_not_ready_without_torchserve(self, start_gateway: Callable[..., Gateway]) -> None:
        gateway = start_gateway(management_url="http://127.0.0.1:9")
        assert_error(requests.get(f"{gateway.url}/readyz", timeout=30), 503, "not_ready")


class TestLabels:
    def test_the_table_of_the_served_version(self, gateway: Gateway) -> None:
        table = requests.get(f"{gateway.url}/v1/labels", timeout=30).json()
        assert table["model_version"] == "1.0"
        assert table["labels"][1] == CAR
        assert table["labels"][0]["body"] is None

    def test_workers_are_asked_once_per_version(
        self, start_gateway: Callable[..., Gateway], torchserve: StandInTorchServe
    ) -> None:
        gateway = start_gateway(labels_ttl_s=0)
        for version in ("1.0", "1.0", "1.1", "1.1"):
            torchserve.version = version
            table = requests.get(f"{gateway.url}/v1/labels", timeout=30).json()
            assert table["model_version"] == version
        assert torchserve.describes.count("customized=true") == 2

    def test_without_a_model_they_are_unavailable(
        self, start_gateway: Callable[..., Gateway]
    ) -> None:
        gateway = start_gateway(management_url="http://127.0.0.1:9")
        response = requests.get(f"{gateway.url}/v1/labels", timeout=30)
        assert_error(response, 503, "model_unavailable")
