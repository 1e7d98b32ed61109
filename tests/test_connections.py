"""Connections to the real gateway on which no request comes, or none that can be read."""

from __future__ import annotations

import http.client
import json
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from gateway_fixtures import PHOTO, StandInTorchServe
from public_gateway import PublicGateway, all_of, peak_memory, public_gateway, request_head

from gateway.server import _OPEN_FILES
from gateway.settings import MEGABYTE

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
# As good as for ever: who is let go before has been let go for another reason.
ENDLESS_S = "600"


@contextmanager
def connected(public: PublicGateway) -> Iterator[socket.socket]:
    with socket.create_connection(public.address, timeout=60) as connection:
        yield connection


@contextmanager
def kept_connection(public: PublicGateway) -> Iterator[http.client.HTTPConnection]:
    """One that is not opened again by itself."""
    connection = http.client.HTTPConnection(*public.address, timeout=60)
    connection.auto_open = 0
    connection.connect()
    yield connection
    connection.close()


def is_answered(connection: http.client.HTTPConnection) -> bool:
    connection.request("GET", "/healthz")
    response = connection.getresponse()
    return response.status == 200 and bool(response.read())


def assert_refused(answer: bytes, status: int, code: str) -> None:
    """It is one whole error in the one shape, on a connection that ends with it."""
    head, _, body = answer.partition(b"\r\n\r\n")
    line, *fields = head.decode().lower().split("\r\n")
    headers = dict(field.split(": ", 1) for field in fields)
    told = json.loads(body)
    assert line.startswith(f"http/1.1 {status} ")
    assert told["error"]["code"] == code
    assert told["request_id"] == headers["x-request-id"]
    assert headers["connection"] == "close"
    assert headers["content-type"] == "application/json"
    assert int(headers["content-length"]) == len(body)


def pushed(connection: socket.socket, piece: bytes, pieces: int) -> bytes:
    """Send pieces until there is an answer."""
    connection.settimeout(0.1)
    for _ in range(pieces):
        connection.sendall(piece)
        try:
            answer = connection.recv(10_000)
        except TimeoutError:
            continue
        connection.settimeout(60)
        return answer + all_of(connection)
    raise AssertionError("nobody answered")


@pytest.mark.parametrize(
    "begin",
    [b"GET / HTTP/1.1\r\nX-A: ", b"GET /", b"GET / HTTP/1.1\r\nA: b\r\nX-A: "],
    ids=["header", "address", "second header"],
)
def test_a_head_that_never_ends_is_refused(public: PublicGateway, begin: bytes) -> None:
    with connected(public) as connection:
        connection.sendall(begin)
        answer = pushed(connection, b"a" * 20_000, pieces=20)
    assert_refused(answer, 431, "head_too_large")


def test_nor_does_it_fill_the_memory(public: PublicGateway) -> None:
    before = peak_memory(public.pid)
    for _ in range(4):
        with connected(public) as connection, pytest.raises(ConnectionError):
            connection.sendall(b"GET / HTTP/1.1\r\nX-A: " + b"a" * 100 * MEGABYTE)
    assert peak_memory(public.pid) - before < 30 * MEGABYTE


def test_a_large_head_that_ends_is_taken(public: PublicGateway) -> None:
    headers = {"X-A": "a" * 30_000}
    assert requests.get(f"{public.url}/healthz", headers=headers, timeout=60).ok


def test_who_says_nothing_is_let_go(public: PublicGateway) -> None:
    with connected(public) as connection:
        assert all_of(connection) == b""


def test_who_dribbles_a_head_is_told_so(public: PublicGateway) -> None:
    with connected(public) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        answer = pushed(connection, b"A: b\r\n", pieces=600)
    assert_refused(answer, 408, "upload_timeout")


def test_line_breaks_after_an_answer_are_no_request(
    torchserve: StandInTorchServe, tmp_path: Path
) -> None:
    with (
        public_gateway(torchserve, tmp_path, CARID_KEEP_ALIVE_S=ENDLESS_S) as gateway,
        kept_connection(gateway) as connection,
    ):
        assert is_answered(connection)
        connection.sock.sendall(b"\r\n")
        assert all_of(connection.sock) == b""


def test_a_kept_connection_outlives_the_time_for_a_head(public: PublicGateway) -> None:
    with kept_connection(public) as used, connected(public) as silent:
        assert is_answered(used)
        assert all_of(silent) == b"", "it was let go meanwhile"
        assert is_answered(used)


def test_the_next_head_may_come_in_pieces_after_a_large_body(
    torchserve: StandInTorchServe, tmp_path: Path
) -> None:
    with (
        public_gateway(torchserve, tmp_path, CARID_ACCESS="anonymous") as gateway,
        kept_connection(gateway) as connection,
    ):
        connection.request("POST", "/v1/identify", PHOTO + bytes(300_000), {"X-A": "b"})
        assert connection.getresponse().read()
        for piece in (HEALTH[:10], HEALTH[10:20], HEALTH[20:]):
            connection.sock.sendall(piece)
            time.sleep(0.1)
        assert connection.sock.recv(12) == b"HTTP/1.1 200"


def test_requests_sent_together_are_all_answered(
    torchserve: StandInTorchServe, tmp_path: Path
) -> None:
    photo = PHOTO + bytes(300_000)
    with (
        public_gateway(torchserve, tmp_path, CARID_ACCESS="anonymous") as gateway,
        connected(gateway) as connection,
    ):
        last = HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        connection.sendall((request_head(len(photo)) + photo) * 3 + last)
        assert all_of(connection).count(b"HTTP/1.1 200 ") == 4


@pytest.mark.parametrize(
    "request_",
    [b"FOO / HTTP/1.1\r\n\r\n", "GET /café HTTP/1.1\r\n\r\n".encode(), b"\x16\x03\x01\x02\x00"],
    ids=["method", "address", "TLS"],
)
def test_what_is_no_http_is_refused_in_the_one_shape(
    public: PublicGateway, request_: bytes
) -> None:
    with connected(public) as connection:
        connection.sendall(request_)
        answer = all_of(connection)
    assert_refused(answer, 400, "request_unreadable")


def test_connections_are_not_limited_by_a_shells_default(
    torchserve: StandInTorchServe, tmp_path: Path
) -> None:
    if not Path("/proc/self/limits").exists():
        pytest.skip("needs Linux's /proc")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, limits[1]))
    try:
        with public_gateway(torchserve, tmp_path) as gateway:
            text = Path(f"/proc/{gateway.pid}/limits").read_text()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    [line] = [it for it in text.splitlines() if it.startswith("Max open files")]
    assert int(line.split()[3]) == min(limits[1], _OPEN_FILES)


def test_what_is_to_be_closed_at_the_end_is_closed(
    torchserve: StandInTorchServe, tmp_path: Path
) -> None:
    """The application's shutdown runs; uvicorn tells of one that can't."""
    with public_gateway(torchserve, tmp_path) as gateway:
        log = gateway.log
    told = log.read_text()
    assert "Application startup complete" in told
    assert "Application shutdown complete" in told
    assert "unsupported" not in told
