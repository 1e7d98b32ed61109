"""Sixteen clients that send requests and compare every answer with the right one."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from benchmarks.service import Service
from benchmarks.soak.corpus import Expected, Request

__all__ = ["Tally", "complaint", "send_all", "send_through_gateway"]

_TIMEOUT_S = 180
# Of a confidence: int8 sums in another order where photos share a batch.
_TOLERANCE = 1e-3


@dataclass
class Tally:
    """What came back.

    Attributes:
        sent: requests answered so far, rightly or not.
        photos: photos in them, by their expected status and code.
        wrong: what is wrong with the others, one line each.
        seconds: by kind, how long each answer took.
        reconnections: connections that the server had closed between two requests.
    """

    sent: int = 0
    photos: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    reconnections: int = 0


def complaint(request: Request, status: int, body: bytes) -> str | None:
    """What is wrong with an answer; None if nothing is."""
    try:
        answer = json.loads(body)
        if len(request.expected) == 1:
            return _wrong(request.expected[0], status, answer)
        if status != 200 or len(answer["results"]) != len(request.expected):
            return f"status {status} for {len(request.expected)} photos: {body[:200]!r}"
        for expected, result in zip(request.expected, answer["results"], strict=True):
            told = result["answer"] if result["status"] == 200 else {**result, "request_id": "-"}
            if wrong := _wrong(expected, result["status"], told):
                return wrong
    except (ValueError, LookupError, TypeError) as error:
        return f"status {status}, an answer of no known shape ({error!r}): {body[:200]!r}"
    return None


def _wrong(expected: Expected, status: int, answer: dict[str, Any]) -> str | None:
    told = "" if status == 200 else str(answer["error"]["code"])
    if (status, told) != (expected.status, expected.code or ""):
        return f"{status} {told} instead of {expected.status} {expected.code or ''}"
    if not answer["request_id"]:
        return "no request id"
    if status != 200:
        return None if answer["error"]["message"] else "an error without a message"
    confidences = [entry["confidence"] for entry in answer["predictions"]]
    if len(confidences) != len(expected.confidences):
        return f"{len(confidences)} predictions instead of {len(expected.confidences)}"
    differences = map(abs, map(float.__sub__, confidences, expected.confidences))
    if max(differences) > _TOLERANCE:
        return f"confidences {confidences} instead of {list(expected.confidences)}"
    first, second = expected.confidences[:2]
    if answer["class_id"] != expected.class_id and first - second > _TOLERANCE:
        return f"class {answer['class_id']} instead of {expected.class_id}"
    return None


# By the route of a request: the address, and the headers that let it in.
_Targets = Mapping[str, tuple[str, Mapping[str, str]]]


def send_all(service: Service, requests: Iterator[Request], clients: int, tally: Tally) -> None:
    """Send everything and wait for it, counting in `tally` as it comes back."""
    targets: _Targets = {
        "worker": (service.predictions, {"Authorization": service.key("inference")}),
        "gateway": (f"{service.gateway}/v1/identify", {}),
    }
    _send_to(targets, requests, clients, tally)


def send_through_gateway(
    url: str, key: str, requests: Iterator[Request], clients: int, tally: Tally
) -> None:
    """Send requests whose route is the gateway, with an API key."""
    targets: _Targets = {"gateway": (f"{url}/v1/identify", {"X-API-Key": key})}
    _send_to(targets, requests, clients, tally)


def _send_to(targets: _Targets, requests: Iterator[Request], clients: int, tally: Tally) -> None:
    lock = threading.Lock()
    threads = [
        threading.Thread(
            target=_Client(targets, requests, lock, tally).run, name=f"client {number}"
        )
        for number in range(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class _Client:
    """One client with a connection to each side, kept open."""

    def __init__(
        self, targets: _Targets, requests: Iterator[Request], lock: threading.Lock, tally: Tally
    ) -> None:
        self._requests = requests
        self._lock = lock
        self._tally = tally
        self._targets = targets
        self._connections: dict[str, http.client.HTTPConnection] = {}

    def run(self) -> None:
        """Send until there is nothing left."""
        while True:
            with self._lock:
                request = next(self._requests, None)
            if request is None:
                return
            start = time.monotonic()
            try:
                wrong = complaint(request, *self._send(request))
            except (OSError, http.client.HTTPException) as error:
                self._connections.pop(request.route).close()
                wrong = f"no answer: {error!r}"
            seconds = time.monotonic() - start
            with self._lock:
                self._count(request, wrong, seconds)

    def _count(self, request: Request, wrong: str | None, seconds: float) -> None:
        tally = self._tally
        tally.sent += 1
        tally.seconds.setdefault(request.kind, []).append(seconds)
        for expected in request.expected:
            key = str(expected.status) if expected.code is None else expected.code
            tally.photos[key] = tally.photos.get(key, 0) + 1
        if wrong:
            tally.wrong.append(f"{request.kind}, {request.route}, after {seconds:.1f} s: {wrong}")

    def _send(self, request: Request) -> tuple[int, bytes]:
        url, opening = self._targets[request.route]
        address = urlsplit(url + request.query)
        headers = {**request.headers, **opening}
        path = f"{address.path}?{address.query}" if address.query else address.path
        for is_again in (False, True):
            connection = self._connections.get(request.route)
            is_used = connection is not None
            if connection is None:
                connection = http.client.HTTPConnection(
                    str(address.hostname), address.port, timeout=_TIMEOUT_S
                )
                self._connections[request.route] = connection
            try:
                connection.request("POST", path, request.body, headers)
                response = connection.getresponse()
                return response.status, response.read()
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                # A server may close a connection that waits; one it has just accepted it may not.
                if is_again or not is_used:
                    raise
                self._connections.pop(request.route).close()
                self._tally.reconnections += 1
        raise AssertionError("the second try returns or raises")
