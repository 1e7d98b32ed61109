"""Stopping a container under load: whoever was let in is answered, whole."""

from __future__ import annotations

import http.client
import json
import threading
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest
from container_fixtures import image, photos

from benchmarks.containers import STOP_TIMEOUT, Container, engine, running

__all__ = ["image", "photos"]

pytestmark = [pytest.mark.container, pytest.mark.timeout(300)]

CLIENTS = 16
DRAIN_S = 3


@dataclass
class Callers:
    """Clients that send one photo after the other until nobody listens any longer.

    What forwards a published port takes connections that nobody in the container does, and drops
    them: a new connection that is dropped counts as refused, once the time to drain is over.
    """

    container: Container
    photo: bytes
    key: str
    drained_at: float = float("inf")
    answered: int = 0
    lost: list[str] = field(default_factory=list)
    farewells: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def call(self) -> None:
        """Be one of them."""
        address = urlsplit(self.container.url)
        while True:
            connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=60)
            began = time.monotonic()
            try:
                connection.connect()
                is_open = self._ask(connection)
            except (OSError, http.client.HTTPException) as error:
                if began < self.drained_at:
                    self._count(lost=f"{began - self.drained_at:.2f} s: {error!r}")
                return
            while is_open:
                try:
                    is_open = self._ask(connection)
                except (OSError, http.client.HTTPException) as error:
                    self._count(lost=f"on a connection in use: {error!r}")
                    return
            connection.close()

    def _ask(self, connection: http.client.HTTPConnection) -> bool:
        headers = {"Content-Type": "image/jpeg", "X-API-Key": self.key}
        connection.request("POST", "/v1/identify", self.photo, headers)
        reply = connection.getresponse()
        status, body = reply.status, reply.read()
        closing = reply.getheader("Connection") == "close"
        whole = status == 200 and "label" in json.loads(body)
        self._count(lost=None if whole else f"{status} {body[:100]!r}", farewell=closing)
        return not closing

    def _count(self, lost: str | None, farewell: bool = False) -> None:
        with self._lock:
            if lost:
                self.lost.append(lost)
            else:
                self.answered += 1
            self.farewells += farewell


def test_stopping_under_load_loses_nobody(image: str, photos: dict[str, bytes]) -> None:
    settings = ("-e", "CARID_RATE_PER_MINUTE=1000000", "-e", f"CARID_DRAIN_S={DRAIN_S}")
    with running(image, *settings) as container:
        callers = Callers(container, next(iter(photos.values())), container.first_key())
        threads = [threading.Thread(target=callers.call) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        while callers.answered < 20 * CLIENTS and not callers.lost:
            time.sleep(0.05)
        at_signal = callers.answered
        callers.drained_at = time.monotonic() + DRAIN_S
        engine("stop", "-t", str(STOP_TIMEOUT), container.name)
        for thread in threads:
            thread.join(60)
        assert container.exit_code(timeout=5) == 0, "it was stopped, not killed"
        assert callers.lost == []
        assert callers.answered > at_signal + CLIENTS, "it still answered while it drained"
        assert callers.farewells >= CLIENTS, "each connection was told to go elsewhere"
        assert container.log().splitlines()[-1] == "stopped"
