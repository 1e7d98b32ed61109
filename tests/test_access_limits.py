"""How often one may call the gateway, and how slowly: seen from outside, through real sockets."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from gateway_fixtures import (
    JPEG,
    PHOTO,
    Gateway,
    StandInTorchServe,
    assert_error,
    identify,
    identify_raw,
)
from public_gateway import (
    UPLOAD_TIMEOUT_S,
    PublicGateway,
    as_gateway,
    request_head,
)

from gateway.settings import MEGABYTE


class TestTooManyCalls:
    def test_a_keys_own_limit_and_nobody_elses(
        self, public: PublicGateway, key: dict[str, str]
    ) -> None:
        slow = {"X-API-Key": public.store.create("slow", per_minute=3)}
        for _ in range(3):
            assert identify(as_gateway(public), PHOTO, headers=slow).ok
        response = identify(as_gateway(public), PHOTO, headers=slow)
        assert "3 photos a minute" in assert_error(response, 429, "rate_limited")
        assert 50 <= int(response.headers["Retry-After"]) <= 60
        assert identify(as_gateway(public), PHOTO, headers=key).ok

    def test_at_once_as_well_as_in_turn(self, public: PublicGateway) -> None:
        slow = {"X-API-Key": public.store.create("at-once", per_minute=10)}
        with ThreadPoolExecutor(8) as pool:
            responses = pool.map(
                lambda _: identify(as_gateway(public), PHOTO, headers=slow), range(30)
            )
            statuses = [response.status_code for response in responses]
        assert sorted(statuses) == [200] * 10 + [429] * 20

    def test_each_photo_counts(
        self, start_gateway: Callable[..., Gateway], torchserve: StandInTorchServe
    ) -> None:
        gateway = start_gateway(access="anonymous", anonymous_per_minute=5)
        assert identify(gateway, *[PHOTO] * 3).ok
        response = identify(gateway, *[PHOTO] * 3)
        assert_error(response, 429, "rate_limited")
        assert response.headers["Retry-After"] == "60"
        assert len(torchserve.photos) == 3

    @pytest.mark.parametrize("per_minute", [1, 2, 5])
    def test_more_photos_than_a_whole_minutes_are_no_matter_of_waiting(
        self, start_gateway: Callable[..., Gateway], per_minute: int
    ) -> None:
        gateway = start_gateway(access="anonymous", anonymous_per_minute=per_minute)
        response = identify(gateway, *[PHOTO] * (per_minute + 1))
        assert f"{per_minute} photos a minute" in assert_error(response, 413, "too_many_photos")
        assert "Retry-After" not in response.headers

    def test_who_is_over_the_limit_sends_no_body(self, public: PublicGateway) -> None:
        slow = public.store.create("no-body", per_minute=1)
        header = f"X-API-Key: {slow}\r\n"
        identify(as_gateway(public), PHOTO, headers={"X-API-Key": slow})
        with socket.create_connection(public.address, timeout=10) as connection:
            connection.sendall(request_head(15 * MEGABYTE, header))
            assert connection.recv(1000).startswith(b"HTTP/1.1 429 ")


class TestUploads:
    def test_30_mb_with_a_key(self, public: PublicGateway, key: dict[str, str]) -> None:
        headers = {**JPEG, **key}
        response = identify_raw(as_gateway(public), bytes(30 * MEGABYTE), headers=headers)
        assert_error(response, 413, "image_too_large")

    @pytest.mark.parametrize(
        ("content_type", "beginning"),
        [
            ("image/jpeg", b""),
            (
                "multipart/form-data; boundary=x",
                b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n',
            ),
            ("application/json", b'{"image": "'),
        ],
        ids=["raw", "form", "json"],
    )
    def test_a_body_that_dribbles_in_is_given_up(
        self, public: PublicGateway, key: dict[str, str], content_type: str, beginning: bytes
    ) -> None:
        head = request_head(1000, f"X-API-Key: {key['X-API-Key']}\r\n", content_type) + beginning
        start = time.monotonic()
        with socket.create_connection(public.address, timeout=10) as connection:
            connection.sendall(head)
            connection.settimeout(0.1)
            answer = b""
            while not answer:
                assert time.monotonic() - start < UPLOAD_TIMEOUT_S + 30
                connection.sendall(b"-")
                try:
                    answer = connection.recv(1000)
                except TimeoutError:
                    continue
            connection.settimeout(30)
            while more := connection.recv(1000):
                answer += more
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'"upload_timeout"' in answer
        assert b"x-request-id: " in answer.lower()
        assert time.monotonic() - start > UPLOAD_TIMEOUT_S - 0.1

    def test_slow_answers_are_not_slow_uploads(
        self, start_gateway: Callable[..., Gateway], torchserve: StandInTorchServe
    ) -> None:
        torchserve.delay = 5.5
        assert identify(start_gateway(upload_timeout_s=5), PHOTO).ok
