"""The load generator: N clients that each send a photo, wait for the answer, send the next.

A process of its own, so that it shares no interpreter with what it measures: it reads its job as
JSON from standard input, prints `warm` and `done` when the measured time begins and ends, and then
its findings as JSON. It has to be light, as it runs on the servers' cores: one thread per client
on a blocking socket costs the least there is, about a copy into the kernel per photo. What it costs
is among the findings.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from urllib.parse import urlsplit

__all__ = ["Load", "Reply", "post", "request_bytes", "run_load"]

# Above the slowest peer's answer to the last of 64 clients.
_ANSWER_TIMEOUT = 60.0
# Seconds without an answer after which the next one begins a new burst.
_PAUSE = 0.003
# Seconds that are waited for a burst to begin, before any answer will do.
_BURST_PATIENCE = 3.0
# Seconds a client rests after a failure, so that a server that refuses isn't asked without end.
_AFTER_FAILURE = 0.1
_FORM_BOUNDARY = "a-photo-of-a-car"


@dataclass(frozen=True, slots=True)
class Load:
    """A job of the generator.

    Attributes:
        url: where photos are posted.
        photos: folder of the JPEG files that are sent in turn.
        clients: how many requests are under way at once.
        seconds: how long is measured at least, from when each client has had an answer and
            `warmup` is over.
        warmup: seconds.
        headers: sent with each request.
        form_field: the photo is sent in a form's field of this name, not as the body itself.
    """

    url: str
    photos: str
    clients: int
    seconds: float
    warmup: float
    headers: dict[str, str] = field(default_factory=dict)
    form_field: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer.

    Attributes:
        status: e.g. 200.
        body: the whole of it.
        reusable: whether the connection stays open.
    """

    status: int
    body: bytes
    reusable: bool


def request_bytes(load: Load, photo: bytes) -> bytes:
    """A whole request, ready to be sent any number of times."""
    url = urlsplit(load.url)
    headers = {"Host": url.netloc, "Content-Type": "application/octet-stream"} | load.headers
    body = photo
    if load.form_field:
        headers["Content-Type"] = f"multipart/form-data; boundary={_FORM_BOUNDARY}"
        opening = (
            f"--{_FORM_BOUNDARY}\r\nContent-Disposition: form-data; "
            f'name="{load.form_field}"; filename="photo.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
        )
        body = opening.encode() + photo + f"\r\n--{_FORM_BOUNDARY}--\r\n".encode()
    headers["Content-Length"] = str(len(body))
    lines = [f"POST {url.path} HTTP/1.1", *(f"{name}: {it}" for name, it in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def post(load: Load, photo: bytes) -> Reply:
    """Send one photo over a connection of its own.

    Raises:
        OSError: no connection, or it broke.
        ValueError: the answer is no HTTP.
    """
    with _connect(load.url) as connection:
        connection.sendall(request_bytes(load, photo))
        return _read_reply(connection)


def run_load(load: Load) -> dict[str, Any]:
    """Do the job, with `warm` and `done` on standard output.

    A server that works in batches answers in bursts: what is measured begins and ends where a burst
    begins, or else a second with one batch more would look faster than it is.

    Returns:
        `seconds` measured, `latencies_ms` of the good answers in them, `failed` with a count per
        reason, and the generator's own `cpu_seconds`.
    """
    files = [path.read_bytes() for path in sorted(Path(load.photos).glob("*.jpg"))]
    requests = [request_bytes(load, file) for file in files]
    bursts = _Bursts()
    clients = [_Client(load.url, requests, number, bursts) for number in range(load.clients)]
    for client in clients:
        client.start()
    start = time.perf_counter()
    while time.perf_counter() < start + load.warmup or any(it.asked == 0 for it in clients):
        time.sleep(0.01)
    begin, cpu = bursts.wait_for_next(), time.process_time()
    print("warm", flush=True)
    time.sleep(load.seconds)
    end, cpu = bursts.wait_for_next(), time.process_time() - cpu
    print("done", flush=True)
    # What is under way is waited for: the next measurement begins with an idle server.
    for client in clients:
        client.stop = True
    for client in clients:
        client.join()
    answers = [it for client in clients for it in client.answers if begin <= it.end < end]
    failed: dict[str, int] = {}
    for answer in answers:
        if answer.failure:
            failed[answer.failure] = failed.get(answer.failure, 0) + 1
    return {
        "seconds": end - begin,
        "latencies_ms": [1000 * (it.end - it.start) for it in answers if not it.failure],
        "failed": failed,
        "cpu_seconds": cpu,
    }


@dataclass(frozen=True, slots=True)
class _Answer:
    """When a request was sent and answered, on the clock of `time.perf_counter`."""

    start: float
    end: float
    failure: str | None


class _Bursts:
    """Tells when a burst of answers begins."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = time.perf_counter()
        self._asked_at: float | None = None
        self._begun: SimpleQueue[float] = SimpleQueue()

    def answered(self, now: float) -> None:
        """Take note of an answer."""
        with self._lock:
            pause, self._last = now - self._last, now
            if self._asked_at and (pause > _PAUSE or now > self._asked_at + _BURST_PATIENCE):
                self._asked_at = None
                self._begun.put(now)

    def wait_for_next(self) -> float:
        """Block until a burst begins; returns when it did, by `time.perf_counter`."""
        with self._lock:
            self._asked_at = time.perf_counter()
        return self._begun.get()


class _Client(threading.Thread):
    """One user: asks, waits, asks again, over one connection for as long as the server keeps it."""

    def __init__(self, url: str, requests: Sequence[bytes], number: int, bursts: _Bursts) -> None:
        super().__init__(daemon=True)
        self.stop = False
        self.asked = 0
        self.answers: list[_Answer] = []
        self._url = url
        self._requests = requests
        self._number = number
        self._bursts = bursts

    def run(self) -> None:
        connection: socket.socket | None = None
        while not self.stop:
            request = self._requests[(self._number + self.asked) % len(self._requests)]
            start = time.perf_counter()
            failure: str | None = None
            try:
                connection = connection or _connect(self._url)
                connection.sendall(request)
                reply = _read_reply(connection)
                failure = None if reply.status == 200 and reply.body else f"HTTP {reply.status}"
                keep = reply.reusable
            except (OSError, ValueError) as error:
                failure, keep = type(error).__name__, False
            end = time.perf_counter()
            self.answers.append(_Answer(start, end, failure))
            self.asked += 1
            self._bursts.answered(end)
            if connection and not keep:
                connection.close()
                connection = None
            if failure:
                time.sleep(_AFTER_FAILURE)
        if connection:
            connection.close()


def _connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    connection = socket.create_connection((parts.hostname, parts.port), _ANSWER_TIMEOUT)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _read_reply(connection: socket.socket) -> Reply:
    data = b""
    while b"\r\n\r\n" not in data:
        data += _receive(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    protocol, status = first.split(" ")[:2]
    headers = {
        name.lower(): value.strip().lower()
        for name, _, value in (line.partition(":") for line in lines)
    }
    if "content-length" not in headers:
        raise ValueError("an answer without Content-Length")
    while len(body) < int(headers["content-length"]):
        body += _receive(connection)
    reusable = protocol == "HTTP/1.1" and headers.get("connection") != "close"
    return Reply(int(status), body, reusable)


def _receive(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise ConnectionError("the server hung up")
    return data


if __name__ == "__main__":
    json.dump(run_load(Load(**json.load(sys.stdin))), sys.stdout)
