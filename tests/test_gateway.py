"""The gateway over real HTTP: what callers get, in good times and in bad."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
import requests
from gateway_fixtures import (
    BROKEN_PHOTO,
    CAR,
    JPEG,
    OCTETS,
    PHOTO,
    QUEUE_FULL,
    WORKER_DIED,
    Gateway,
    StandInTorchServe,
    assert_error,
    identify,
    identify_raw,
    wait_for,
)

from gateway.settings import MEGABYTE


class TestPhotos:
    def test_a_form_file_is_answered(self, gateway: Gateway) -> None:
        response = identify(gateway, PHOTO)
        assert response.status_code == 200
        answer = response.json()
        assert {key: answer[key] for key in CAR} == CAR
        assert answer["request_id"] == response.headers["X-Request-Id"]

    @pytest.mark.parametrize(
        "headers", [JPEG, OCTETS, {"Content-Type": "image/heic; x=y"}, {}], ids=str
    )
    def test_a_raw_body_is_answered(
        self, gateway: Gateway, torchserve: StandInTorchServe, headers: dict[str, str]
    ) -> None:
        assert identify_raw(gateway, PHOTO, headers=headers).status_code == 200
        assert torchserve.photos[0][1] == PHOTO

    def test_any_field_name_will_do(self, gateway: Gateway) -> None:
        url = f"{gateway.url}/v1/identify"
        assert requests.post(url, files={"whatever": PHOTO}, timeout=30).json()["make"] == "Audi"

    def test_a_file_without_a_name_is_a_photo_by_its_type(self, gateway: Gateway) -> None:
        parts = {"photo": (None, PHOTO, "image/jpeg")}
        response = requests.post(f"{gateway.url}/v1/identify", files=parts, timeout=30)
        assert response.json()["make"] == "Audi"

    def test_photos_arrive_byte_for_byte(
        self, gateway: Gateway, torchserve: StandInTorchServe
    ) -> None:
        # What a multipart parser is likely to stumble over, in the middle of a photo.
        data = b"\r\n--\r\n----\r\n" * 50_000 + bytes(range(256)) * 4000
        identify(gateway, data)
        assert torchserve.photos[0][1] == data

    def test_several_photos_are_answered_in_order(
        self, gateway: Gateway, torchserve: StandInTorchServe
    ) -> None:
        body = identify(gateway, PHOTO, BROKEN_PHOTO, b"", PHOTO).json()
        assert [result["status"] for result in body["results"]] == [200, 422, 400, 200]
        assert [result["filename"] for result in body["results"]] == [
            "0.jpg",
            "1.jpg",
            "2.jpg",
            "3.jpg",
        ]
        assert body["results"][0]["answer"]["label"] == CAR["label"]
        assert body["results"][1]["error"]["code"] == "image_unreadable"
        assert body["results"][2]["error"]["code"] == "image_missing"
        # Each photo can be told apart in the worker's log.
        assert {request_id for request_id, _ in torchserve.photos} == {
            f"{body['request_id']}-{number}" for number in (1, 2, 4)
        }

    def test_a_worker_that_dies_over_one_photo_leaves_the_others_answered(
        self, start_gateway: Callable[..., Gateway], torchserve: StandInTorchServe
    ) -> None:
        gateway = start_gateway(photos_in_flight=1)
        torchserve.failures.append(WORKER_DIED)
        results = identify(gateway, PHOTO, PHOTO).json()["results"]
        assert [result["status"] for result in results] == [503, 200]

    def test_if_the_server_can_answer_none_the_whole_request_can_be_repeated(
        self, gateway: Gateway, torchserve: StandInTorchServe
    ) -> None:
        torchserve.failures.extend([QUEUE_FULL, QUEUE_FULL])
        response = identify(gateway, PHOTO, PHOTO)
        assert_error(response, 503, "server_busy")
        assert response.headers["Retry-After"] == "1"

    def test_one_request_does_not_take_all_of_the_model(
        self, start_gateway: Callable[..., Gateway], torchserve: StandInTorchServe
    ) -> None:
        torchserve.delay = 0.05
        gateway = start_gateway(photos_in_flight=3)
        with ThreadPoolExecutor(1) as pool, torchserve.holding():
            request = pool.submit(identify, gateway, *[PHOTO] * 10)
            wait_for(lambda: len(torchserve.photos) == 3)
        assert request.result().ok
        assert torchserve.most_at_once == 3

    def test_nothing_is_written_to_disk(self, gateway: Gateway) -> None:
        with files_written() as written:
            assert identify(gateway, PHOTO + bytes(5 * MEGABYTE), PHOTO).status_code == 200
            assert identify_raw(gateway, PHOTO + bytes(5 * MEGABYTE)).status_code == 200
        assert written == []


class TestOptions:
    @pytest.mark.parametrize(
        "request_parts",
        [{"params": {"top_k": 1}}, {"data": {"top_k": "1"}}],
        ids=["in the query", "in the form"],
    )
    def test_top_k_is_heeded(self, gateway: Gateway, request_parts: dict[str, object]) -> None:
        assert len(identify(gateway, PHOTO, **request_parts).json()["predictions"]) == 1
        assert len(identify(gateway, PHOTO).json()["predictions"]) == 2

    @pytest.mark.parametrize(
        ("request_parts", "hint"),
        [
            ({"params": {"top_k": 0}}, "greater than or equal to 1"),
            ({"params": {"top_k": "21"}}, "less than or equal to 20"),
            ({"data": {"top_k": "many"}}, "'many'"),
            ({"data": {"top_k": "5" * 5000}}, "too long"),
            ({"params": {"topk": 3}}, "only top_k"),
            ({"data": {"topk": 3}}, "only top_k"),
            ({"params": {"top_k": 3}, "data": {"top_k": 3}}, "twice"),
        ],
        ids=str,
    )
    def test_a_bad_option_is_named(
        self, gateway: Gateway, request_parts: dict[str, object], hint: str
    ) -> None:
        message = assert_error(identify(gateway, PHOTO, **request_parts), 422, "invalid_option")
        assert hint in message


class TestRefusals:
    @pytest.mark.parametrize(
        "request_parts",
        [
            {"headers": JPEG},
            {"data": b"", "headers": {"Content-Type": "application/x-www-form-urlencoded"}},
            {"data": iter([]), "headers": JPEG},  # chunked, without a length
            {"files": {"file": ("empty.jpg", b"")}},
            {"files": {"top_k": (None, "3")}},
            {"files": {"file": ("", b"")}},  # an HTML form sent without choosing a file
        ],
        ids=["no body", "empty form", "no chunks", "empty file", "no file", "no file chosen"],
    )
    def test_a_request_without_a_photo(
        self, gateway: Gateway, request_parts: dict[str, object]
    ) -> None:
        response = requests.post(f"{gateway.url}/v1/identify", timeout=30, **request_parts)
        assert_error(response, 400, "image_missing")

    def test_curls_default_type_is_told_the_right_one(self, gateway: Gateway) -> None:
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        response = identify_raw(gateway, PHOTO, headers=headers)
        message = assert_error(response, 415, "unsupported_media_type")
        assert "-F file=@photo.jpg" in message
        assert "Content-Type: image/jpeg" in message

    @pytest.mark.parametrize(
        "headers",
        [{"Content-Type": "text/plain"}, {**JPEG, "Content-Encoding": "gzip"}],
        ids=str,
    )
    def test_bodies_that_hold_no_photo(self, gateway: Gateway, headers: dict[str, str]) -> None:
        response = identify_raw(gateway, b"{}", headers=headers)
        assert_error(response, 415, "unsupported_media_type")

    @pytest.mark.parametrize(
        ("content_type", "body"),
        [
            ("multipart/form-data", b"--x\r\n"),
            ("multipart/form-data; boundary=x", b"no multipart at all"),
            (
                "multipart/form-data; boundary=x",
                b'--x\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\nhalf a pho',
            ),
        ],
        ids=["no boundary", "garbage", "broken off"],
    )
    def test_broken_multipart(self, gateway: Gateway, content_type: str, body: bytes) -> None:
        response = identify_raw(gateway, body, headers={"Content-Type": content_type})
        assert_error(response, 400, "body_unreadable")

    def test_unknown_path(self, gateway: Gateway) -> None:
        assert_error(requests.get(f"{gateway.url}/v2/identify", timeout=30), 404, "not_found")

    def test_wrong_method(self, gateway: Gateway) -> None:
        response = requests.get(f"{gateway.url}/v1/identify", timeout=30)
        assert "takes POST, not GET" in assert_error(response, 405, "method_not_allowed")
        assert response.headers["Allow"] == "POST"

    def test_a_bug_is_told_without_its_insides(
        self, gateway: Gateway, caplog: pytest.LogCaptureFixture
    ) -> None:
        gateway.app.state.readiness = None
        response = requests.get(f"{gateway.url}/readyz", timeout=30)
        message = assert_error(response, 500, "internal_error")
        assert "NoneType" not in message
        assert "NoneType" in caplog.text
        assert response.headers["X-Request-Id"] in caplog.text


class TestLimits:
    @pytest.fixture
    def small(self, start_gateway: Callable[..., Gateway]) -> Gateway:
        return start_gateway(max_photo_bytes=1000, max_body_bytes=5000, max_photos=3)

    def test_a_photo_over_the_limit_alone(self, small: Gateway) -> None:
        assert_error(identify(small, bytes(1001)), 413, "image_too_large")
        assert_error(identify_raw(small, bytes(1001)), 413, "image_too_large")
        assert_error(identify_raw(small, iter([bytes(600)] * 2)), 413, "image_too_large")

    def test_a_photo_at_the_limit_passes(self, small: Gateway) -> None:
        assert identify(small, bytes(1000)).status_code == 200
        assert identify_raw(small, bytes(1000)).status_code == 200

    def test_a_photo_over_the_limit_beside_others(
        self, small: Gateway, torchserve: StandInTorchServe
    ) -> None:
        results = identify(small, PHOTO, bytes(1500), PHOTO).json()["results"]
        assert [result["status"] for result in results] == [200, 413, 200]
        assert len(torchserve.photos) == 2

    def test_a_body_over_the_limit(self, small: Gateway) -> None:
        assert_error(identify(small, *[bytes(900)] * 6), 413, "body_too_large")
        # Without a declared length it shows while reading.
        chunks = iter([b'--x\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\n'])
        endless = (chunk for part in (chunks, iter([bytes(1000)] * 50)) for chunk in part)
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        assert_error(identify_raw(small, endless, headers=headers), 413, "body_too_large")

    def test_too_many_photos(self, small: Gateway) -> None:
        assert identify(small, *[PHOTO] * 3).status_code == 200
        assert_error(identify(small, *[PHOTO] * 4), 413, "too_many_photos")

    def test_parts_that_hold_nothing_are_counted_too(self, small: Gateway) -> None:
        empty = b'--x\r\nContent-Disposition: form-data; name="file"; filename=""\r\n\r\n\r\n'
        photo = b'--x\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\na\r\n'
        headers = {"Content-Type": "multipart/form-data; boundary=x"}

        def sent(count: int) -> requests.Response:
            return identify_raw(small, empty * count + photo + b"--x--\r\n", headers=headers)

        assert sent(10).status_code == 200, "a page may have file inputs that nobody filled in"
        assert "parts" in assert_error(sent(40), 413, "too_many_photos")

    def test_who_waits_for_permission_sends_no_byte_too_many(self, small: Gateway) -> None:
        address = urlsplit(small.url)
        with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
            connection.sendall(
                b"POST /v1/identify HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"
                b"Content-Length: 6000\r\nExpect: 100-continue\r\n\r\n"
            )
            assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")

    def test_uploads_together_fit_into_memory(
        self, start_gateway: Callable[..., Gateway], torchserve: StandInTorchServe
    ) -> None:
        gateway = start_gateway(upload_memory_bytes=2500)
        with ThreadPoolExecutor(4) as pool, torchserve.holding():
            calls = [pool.submit(identify_raw, gateway, bytes(1000)) for _ in range(4)]
            wait_for(lambda: sum(call.done() for call in calls) == 2)
        responses = [call.result() for call in calls]
        assert sorted(response.status_code for response in responses) == [200, 200, 503, 503]
        busy = next(response for response in responses if response.status_code == 503)
        assert_error(busy, 503, "server_busy")
        assert busy.headers["Retry-After"] == "1"
        # What was refused is no longer held.
        assert identify_raw(gateway, bytes(2500)).status_code == 200


class TestRequestId:
    @pytest.mark.parametrize("sane", ["my-id_1", "a:b/c=d+e.f", "x" * 100])
    def test_a_callers_own_is_kept(self, gateway: Gateway, sane: str) -> None:
        response = identify(gateway, PHOTO, headers={"X-Request-Id": sane})
        assert response.headers["X-Request-Id"] == sane
        assert response.json()["request_id"] == sane

    @pytest.mark.parametrize("insane", ["two words", "x" * 101, '"};alert(1)', "naïve"])
    def test_a_strange_one_is_replaced(self, gateway: Gateway, insane: str) -> None:
        headers = {"X-Request-Id": insane.encode("latin-1")}
        response = requests.get(f"{gateway.url}/nowhere", headers=headers, timeout=30)
        assert insane not in response.text
        assert len(response.headers["X-Request-Id"]) == 32


class TestSwagger:
    def test_the_page_needs_nothing_from_outside(self, gateway: Gateway) -> None:
        page = requests.get(f"{gateway.url}/swagger", timeout=30)
        assert page.url == f"{gateway.url}/swagger/"
        assert "https://" not in page.text
        for asset in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png"):
            assert f"/swagger/assets/{asset}" in page.text
            response = requests.get(f"{gateway.url}/swagger/assets/{asset}", timeout=30)
            assert response.status_code == 200
        assert requests.get(f"{gateway.url}/openapi.json", timeout=30).json()["paths"]


_written: list[str] | None = None


def _note_writes(event: str, arguments: tuple[object, ...]) -> None:
    """An audit hook can't be taken back, so it does nothing outside of `files_written`."""
    if _written is not None and event in ("open", "tempfile.mkstemp"):
        mode = arguments[1] if event == "open" else "w"
        flags = arguments[2] if event == "open" else 0
        writes = isinstance(mode, str) and set(mode) & set("wax+")
        # os.open has no mode, only flags; the lowest two bits are 0 for reading only.
        if writes or (mode is None and isinstance(flags, int) and flags & 3):
            _written.append(str(arguments[0]))


class files_written:  # noqa: N801 - reads as a function, like contextlib's own
    """What this process opens for writing inside the `with` block."""

    def __enter__(self) -> list[str]:
        global _written
        sys.addaudithook(_note_writes)
        _written = []
        return _written

    def __exit__(self, *_: object) -> None:
        global _written
        _written = None


def test_the_check_for_written_files_notices_spooled_ones() -> None:
    import tempfile

    with files_written() as written, tempfile.SpooledTemporaryFile(max_size=1) as file:
        file.write(b"too much")
    assert written
