"""The gateway stops without losing a request: a real process, and clients that never pause."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import requests
from gateway_fixtures import PHOTO, StandInTorchServe, assert_error, wait_for
from public_gateway import PublicGateway, public_gateway, request_head

from gateway.listening import close_queue

CLIENTS = 16
DRAIN_S = 2.0
# As good as for ever: what ends within a test ends for another reason.
ENDLESS_S = "600"


@contextmanager
def running(
    torchserve: StandInTorchServe, folder: Path, **settings: str
) -> Iterator[PublicGateway]:
    """A gateway that needs no keys and drains, in a process of its own."""
    environment = {
        "CARID_ACCESS": "anonymous",
        "CARID_ANONYMOUS_PER_MINUTE": "1000000",
        "CARID_DRAIN_S": str(DRAIN_S),
        **settings,
    }
    with public_gateway(torchserve, folder, **environment) as gateway:
        yield gateway


@pytest.fixture
def gateway(torchserve: StandInTorchServe, tmp_path: Path) -> Iterator[PublicGateway]:
    with running(torchserve, tmp_path) as gateway:
        yield gateway


def stop(gateway: PublicGateway, number: int = signal.SIGTERM) -> None:
    os.kill(gateway.pid, number)


def wait_until_gone(gateway: PublicGateway) -> None:
    """Until the process has ended; it is the caller's child, so a zombie is gone, too."""
    process = psutil.Process(gateway.pid)
    wait_for(lambda: process.status() == psutil.STATUS_ZOMBIE)


def is_draining(gateway: PublicGateway) -> bool:
    return requests.get(f"{gateway.url}/readyz", timeout=30).status_code == 503


def is_refusing(gateway: PublicGateway) -> bool:
    """Whether it takes no new connections."""
    try:
        socket.create_connection(gateway.address, timeout=30).close()
    except ConnectionRefusedError:
        return True
    return False


@contextmanager
def slow_request(
    gateway: PublicGateway, torchserve: StandInTorchServe
) -> Iterator[Future[requests.Response]]:
    """A photo that TorchServe has begun to answer, and does not before the `with` block ends."""
    with ThreadPoolExecutor(1) as pool, torchserve.holding():
        url = f"{gateway.url}/v1/identify"
        slow = pool.submit(requests.post, url, files={"file": PHOTO}, timeout=40)
        wait_for(lambda: torchserve.photos)
        yield slow


@dataclass
class Client:
    """One that keeps its connection, opens another when told to, and ends when it is refused.

    Attributes:
        answered: whole, right answers.
        farewells: those that closed their connection.
        lost: what became of requests that were not answered.
    """

    address: tuple[str, int]
    answered: int = 0
    farewells: int = 0
    lost: list[str] = field(default_factory=list)

    def send_until_refused(self) -> None:
        connection = http.client.HTTPConnection(*self.address, timeout=40)
        while not self.lost:
            if connection.sock is None:
                try:
                    connection.connect()
                except ConnectionRefusedError:
                    return
            try:
                connection.request("POST", "/v1/identify", PHOTO, {"Content-Type": "image/jpeg"})
                response = connection.getresponse()
                body = response.read()
            except (OSError, http.client.HTTPException) as error:
                self.lost.append(repr(error))
                return
            if response.status != 200 or json.loads(body)["make"] != "Audi":
                self.lost.append(f"{response.status} {body!r}")
            self.answered += 1
            self.farewells += response.getheader("Connection") == "close"


class TestUnderLoad:
    def test_nothing_is_lost_by_sixteen_clients_that_never_pause(
        self, torchserve: StandInTorchServe, tmp_path: Path
    ) -> None:
        torchserve.delay = 0.02
        with (
            ThreadPoolExecutor(CLIENTS) as pool,
            running(torchserve, tmp_path, CARID_DRAIN_S=ENDLESS_S) as gateway,
        ):
            clients = [Client(gateway.address) for _ in range(CLIENTS)]
            for client in clients:
                pool.submit(client.send_until_refused)
            wait_for(lambda: all(client.answered >= 5 for client in clients))
            stop(gateway)
            wait_for(lambda: is_draining(gateway))
            before = [client.answered for client in clients]

            def answered_since() -> list[int]:
                return [it.answered - count for it, count in zip(clients, before, strict=True)]

            wait_for(lambda: min(answered_since()) >= 3 or any(it.lost for it in clients))
            stop(gateway)  # ends the drain as its time would
            wait_until_gone(gateway)
        lost = [what for client in clients for what in client.lost]
        print(f"answered: {sum(c.answered for c in clients)}, resets: {len(lost)}")
        assert lost == []
        for client, since in zip(clients, answered_since(), strict=True):
            # All but the one that was on its way when the signal came.
            assert client.farewells >= since - 1

    def test_who_is_connected_may_still_ask_when_no_new_connections_are_taken(
        self, torchserve: StandInTorchServe, tmp_path: Path
    ) -> None:
        """The port's queue is kept full of callers not yet accepted; the last one is taken, too."""
        with running(torchserve, tmp_path, CARID_DRAIN_S="0.3") as gateway:
            stop(gateway)
            connections = []
            is_open = True
            while is_open:
                try:
                    connections.append(socket.create_connection(gateway.address, timeout=0.1))
                except (ConnectionRefusedError, TimeoutError):  # Linux refuses only the next try
                    is_open = False
            recent = connections[-20:]
            for connection in recent:
                connection.settimeout(30)
                connection.sendall(request_head(len(PHOTO)) + PHOTO)
            answers = [connection.recv(100) for connection in recent]
            for connection in connections:
                connection.close()
        assert [answer[:12] for answer in answers] == [b"HTTP/1.1 200"] * len(recent)


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's socket filters")
def test_a_closed_queue_keeps_who_is_in_it_and_lets_nobody_in() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as early,
    ):
        close_queue(listener)
        with pytest.raises(TimeoutError):
            socket.create_connection(listener.getsockname(), timeout=0.3)
        accepted, _ = listener.accept()
        with accepted:
            early.sendall(b"still here")
            assert accepted.recv(100) == b"still here"


class TestWhileItDrains:
    def test_readyz_refuses_and_all_else_is_answered(
        self, torchserve: StandInTorchServe, tmp_path: Path
    ) -> None:
        with running(torchserve, tmp_path, CARID_DRAIN_S=ENDLESS_S) as gateway:
            stop(gateway)
            wait_for(lambda: is_draining(gateway))
            not_ready = requests.get(f"{gateway.url}/readyz", timeout=30)
            answered = [
                requests.get(f"{gateway.url}/healthz", timeout=30),
                requests.get(f"{gateway.url}/v1/models", timeout=30),
                requests.post(f"{gateway.url}/v1/identify", files={"file": PHOTO}, timeout=30),
            ]
            refused = requests.get(f"{gateway.url}/nowhere", timeout=30)
        assert "stopping" in assert_error(not_ready, 503, "not_ready")
        assert [response.status_code for response in answered] == [200, 200, 200]
        assert refused.status_code == 404
        for response in [*answered, refused]:
            assert response.headers["Connection"] == "close"

    def test_before_it_connections_stay_open(self, gateway: PublicGateway) -> None:
        response = requests.get(f"{gateway.url}/healthz", timeout=5)
        assert "Connection" not in response.headers

    def test_it_lasts_as_long_as_it_was_set_and_then_connections_are_refused(
        self, gateway: PublicGateway
    ) -> None:
        start = time.monotonic()
        stop(gateway)
        wait_until_gone(gateway)
        assert time.monotonic() - start >= DRAIN_S
        assert is_refusing(gateway)


class TestSlowRequests:
    def test_one_that_outlasts_the_drain_is_answered(
        self, torchserve: StandInTorchServe, tmp_path: Path
    ) -> None:
        """Near to what answer_timeout_s lets a photo take, with room for a slow machine."""
        torchserve.delay = 20
        with running(torchserve, tmp_path, CARID_DRAIN_S="0.5") as gateway:
            with slow_request(gateway, torchserve) as slow:
                stop(gateway)
            response = slow.result()
            assert response.status_code == 200
            assert response.headers["Connection"] == "close"
            wait_until_gone(gateway)


class TestHurry:
    @pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
    def test_a_second_signal_ends_the_drain_and_loses_nothing(
        self, torchserve: StandInTorchServe, tmp_path: Path, second: int
    ) -> None:
        with running(torchserve, tmp_path, CARID_DRAIN_S=ENDLESS_S) as gateway:
            with slow_request(gateway, torchserve) as slow:
                stop(gateway)
                wait_for(lambda: is_draining(gateway))
                stop(gateway, second)
                wait_for(lambda: is_refusing(gateway))
            assert slow.result().status_code == 200
            wait_until_gone(gateway)

    def test_a_third_one_waits_for_nothing(
        self, torchserve: StandInTorchServe, tmp_path: Path
    ) -> None:
        with (
            running(torchserve, tmp_path, CARID_DRAIN_S=ENDLESS_S) as gateway,
            slow_request(gateway, torchserve) as slow,
        ):
            stop(gateway)
            wait_for(lambda: is_draining(gateway))
            stop(gateway)
            wait_for(lambda: is_refusing(gateway))
            stop(gateway)
            wait_until_gone(gateway)
            with pytest.raises(requests.ConnectionError):
                slow.result()


class TestWithoutADrain:
    def test_ctrl_c_on_a_laptop_ends_it_at_once(
        self, torchserve: StandInTorchServe, tmp_path: Path
    ) -> None:
        settings = {"CARID_DRAIN_S": "0", "CARID_KEEP_ALIVE_S": ENDLESS_S}
        with running(torchserve, tmp_path, **settings) as gateway:
            session = requests.Session()
            session.get(f"{gateway.url}/healthz", timeout=30)  # a connection that stays open
            stop(gateway, signal.SIGINT)
            wait_until_gone(gateway)
