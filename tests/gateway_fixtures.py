"""The real gateway before a stand-in for TorchServe, whose failures can be called up at will.

`StandInTorchServe` answers over real HTTP what TorchServe 0.12 was seen to answer; that it answers
photos like the real one is what test_live.py is for.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
import uvicorn
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from gateway.app import create_app
from gateway.settings import Settings

PHOTO = b"\xff\xd8\xff a photo"
BROKEN_PHOTO = b"\xff\xd8\xff broken"

CAR = {
    "make": "Audi",
    "model": "TTS",
    "body": "Coupe",
    "year": 2012,
    "label": "Audi TTS Coupe 2012",
    "class_id": 13,
}
HUMMER = {
    "make": "AM General",
    "model": "Hummer",
    "body": None,
    "year": 2000,
    "label": "AM General Hummer 2000",
    "class_id": 0,
}
HEATMAP = {"class_id": 13, "grid": [[0.5, -1.0], [7.25, 0.0]], "png": "iVBORw0KGgo="}
REGION = {"left": 0, "top": 0, "right": 640, "bottom": 480, "source": "photo"}


def torchserve_error(status: int, kind: str, message: str) -> Response:
    """An error in TorchServe's own words, which closes the connection."""
    body = {"code": status, "type": kind, "message": message}
    return JSONResponse(body, status, headers={"connection": "close"})


WORKER_DIED = torchserve_error(500, "InternalServerException", "Worker died.")
QUEUE_FULL = torchserve_error(
    503,
    "ServiceUnavailableException",
    'Model "car_identifier" has no worker to serve inference request. Please use scale workers API '
    "to add workers. If this is a sequence inference, please check if it is closed, or expired; or "
    "exceeds maxSequenceJobQueueSize",
)
NO_SUCH_VERSION = torchserve_error(
    404,
    "ModelVersionNotFoundException",
    "Model version: 9.9 does not exist for model: car_identifier",
)
NOT_REGISTERED = torchserve_error(404, "ModelNotFoundException", "Model not found: car_identifier")
# As TorchServe writes it: commas at the end of labels, and help texts that don't help.
METRICS = """\
# HELP ts_queue_latency_microseconds Torchserve prometheus counter metric with unit: Microseconds
# TYPE ts_queue_latency_microseconds counter
ts_queue_latency_microseconds{model_name="car_identifier",model_version="default",} 4.3310187E7
# HELP car_identifier_batch_size Torchserve prometheus histogram metric with unit: requests
# TYPE car_identifier_batch_size histogram
car_identifier_batch_size_bucket{model_version="1.0",Hostname="vm",le="1.0",} 2.0
car_identifier_batch_size_bucket{model_version="1.0",Hostname="vm",le="+Inf",} 3.0
car_identifier_batch_size_count{model_version="1.0",Hostname="vm",} 3.0
car_identifier_batch_size_sum{model_version="1.0",Hostname="vm",} 7.0
# HELP GPUUtilization Torchserve prometheus gauge metric with unit: Percent
# TYPE GPUUtilization gauge
"""
TOO_LARGE = Response(status_code=413)
NO_JSON = Response("<html>", media_type="text/html")


class StandInTorchServe:
    """TorchServe's inference, management and metrics, on one port.

    Attributes:
        failures: answers for the next predictions; when they are used up, photos are answered.
        delay: seconds a prediction takes.
        held: what is not answered for now: see `holding`.
        workers: their states, as management tells them.
        version: the default one.
        verdict: of every answer.
        others: other versions that are registered → their workers' states.
        sees: version → the car it sees on each photo; Audi where it isn't told.
        broken: version → what it answers instead.
        photos: request ids and bodies of all predictions.
        asked: versions and options of all predictions.
        describes: queries of all model descriptions.
        renewals: how many keys were asked for.
        metrics: what its metrics port shows.
        scrapes: how often it was asked.
    """

    def __init__(self, key_file: Path) -> None:
        self.key_file = key_file
        self.url = ""
        self.failures: deque[Response] = deque()
        self.delay = 0.0
        self.held: set[str] = set()
        self.workers = ["READY"]
        self.version = "1.0"
        self.verdict = "identified"
        self.others: dict[str, list[str]] = {}
        self.sees: dict[str, dict[str, Any]] = {}
        self.broken: dict[str, Response] = {}
        self.photos: list[tuple[str, bytes]] = []
        self.asked: list[dict[str, object]] = []
        self.describes: list[str] = []
        self.renewals = 0
        self.metrics = METRICS
        self.scrapes = 0
        self.most_at_once = 0
        self._at_once = 0
        self.start_anew()
        self.app = Starlette(
            routes=[
                Route("/predictions/car_identifier", self._predict, methods=["POST"]),
                Route("/predictions/car_identifier/{version}", self._predict, methods=["POST"]),
                Route("/explanations/car_identifier", self._predict, methods=["POST"]),
                Route("/explanations/car_identifier/{version}", self._predict, methods=["POST"]),
                Route("/models/car_identifier", self._describe),
                Route("/models/car_identifier/all", self._describe_all),
                Route("/token", self._token),
                Route("/metrics", self._metrics),
            ]
        )

    def start_anew(self) -> None:
        """What a restart does: all keys are new, and in the file."""
        self.keys = {kind: secrets.token_urlsafe(6) for kind in ("management", "inference", "API")}
        self.write_key_file()

    def write_key_file(self, *, valid_for: timedelta = timedelta(hours=1)) -> None:
        end = (datetime.now(UTC) + valid_for).strftime("%Y-%m-%dT%H:%M:%S.%f") + "123Z"
        content: dict[str, Any] = {
            kind: {"key": self.keys[kind], "expiration time": end}
            for kind in ("management", "inference")
        }
        content["API"] = {"key": self.keys["API"]}
        self.key_file.write_text(json.dumps(content, indent=2))

    def expire(self, kind: str) -> None:
        """The key ends before its time in the file."""
        self.keys[kind] = "no key is like this"

    @contextmanager
    def holding(self, what: str = "1.0") -> Iterator[None]:
        """Inside the `with` block that version answers no photo, or "metrics" no scrape.

        A delay would be a guess of how long the test takes until it has seen what it came for.
        """
        self.held.add(what)
        try:
            yield
        finally:
            self.held.discard(what)

    async def _until_released(self, what: str) -> None:
        while what in self.held:
            await asyncio.sleep(0.01)

    def _refusal(self, request: Request, kind: str) -> Response | None:
        if request.headers.get("authorization") == f"Bearer {self.keys[kind]}":
            return None
        return torchserve_error(
            400,
            "InvalidKeyException",
            "Token Authorization failed. Token either incorrect, expired, or not provided "
            "correctly",
        )

    async def _predict(self, request: Request) -> Response:
        photo = await request.body()
        if refusal := self._refusal(request, "inference"):
            return refusal
        request_id = request.headers["request_id"]
        version = request.path_params.get("version", self.version)
        self.photos.append((request_id, photo))
        # As the real one, whatever a header says.
        explain = request.url.path.startswith("/explanations")
        options = {name: request.headers.get(name) for name in ("top_k", "box")}
        asked_version = request.path_params.get("version")
        self.asked.append({"version": asked_version, "explain": explain, **options})
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        await asyncio.sleep(self.delay)
        await self._until_released(version)
        self._at_once -= 1
        if self.failures:
            return self.failures.popleft()
        if version not in (self.version, *self.others):
            return NO_SUCH_VERSION
        if version in self.broken:
            return self.broken[version]
        if photo == BROKEN_PHOTO:
            error = {"code": "image_unreadable", "message": "the JPEG image is damaged"}
            return JSONResponse({"error": error, "request_id": request_id}, 422)
        top_k = int(request.headers["top_k"])
        cars = (self.sees.get(version, CAR), HUMMER)
        predictions = [{**car, "confidence": 0.9 / n} for n, car in enumerate(cars, 1)]
        explanation = {"heatmap": HEATMAP} if explain else {}
        return JSONResponse(
            {
                **predictions[0],
                "make_confidence": 0.95,
                "verdict": self.verdict,
                "predictions": predictions[:top_k],
                "region": REGION,
                "warnings": [],
                "model_version": version,
                "request_id": request_id,
                "timing_ms": {"decode": 1.0, "inference": 2.0},
                **explanation,
            }
        )

    async def _describe(self, request: Request) -> Response:
        if refusal := self._refusal(request, "management"):
            return refusal
        self.describes.append(request.url.query)
        model = _description(self.version, self.workers)
        if request.query_params.get("customized") == "true":
            # Nulls get lost on the way.
            labels = [
                {key: car[key] for key in car if car[key] is not None} for car in (HUMMER, CAR)
            ]
            model["customizedMetadata"] = {"model_version": self.version, "labels": labels}
        return JSONResponse([model])

    async def _describe_all(self, request: Request) -> Response:
        if refusal := self._refusal(request, "management"):
            return refusal
        versions = {**self.others, self.version: self.workers}
        return JSONResponse([_description(*version) for version in versions.items()])

    async def _metrics(self, _: Request) -> Response:
        self.scrapes += 1
        await self._until_released("metrics")
        return Response(self.metrics, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _token(self, request: Request) -> Response:
        if refusal := self._refusal(request, "API"):
            return refusal
        self.renewals += 1
        self.keys[request.query_params["type"]] = secrets.token_urlsafe(6)
        self.write_key_file()
        return Response("\n", media_type="application/json")


def _description(version: str, workers: list[str]) -> dict[str, Any]:
    return {
        "modelName": "car_identifier",
        "modelVersion": version,
        "workers": [
            {
                "id": str(9000 + index),
                "startTime": "2026-01-01T00:00:00.500Z",
                "status": state,
                "memoryUsage": 0,
                "pid": 4000 + index,
            }
            for index, state in enumerate(workers)
        ],
        "jobQueueStatus": {"remainingCapacity": 60, "pendingRequests": 4},
    }


def wait_for(condition: Callable[[], object], patience_s: float = 60) -> None:
    """Return once it is true; the limit is for what never happens, not for slow machines."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {patience_s} s"
        time.sleep(0.01)


@dataclass(frozen=True)
class Gateway:
    """A running gateway: its address and the application behind it."""

    url: str
    app: FastAPI


@contextmanager
def serving(app: ASGIApp) -> Iterator[str]:
    """Run an application on a free port of its own; yields its address."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def torchserve(tmp_path: Path) -> Iterator[StandInTorchServe]:
    """A stand-in TorchServe with one ready worker."""
    stand_in = StandInTorchServe(tmp_path / "key_file.json")
    with serving(stand_in.app) as stand_in.url:
        yield stand_in


@pytest.fixture
def start_gateway(torchserve: StandInTorchServe) -> Iterator[Callable[..., Gateway]]:
    """Starts gateways before the stand-in; takes settings by keyword."""
    running = []

    def start(**changes: Any) -> Gateway:
        settings = Settings(
            **{
                "inference_url": torchserve.url,
                "management_url": torchserve.url,
                "metrics_url": torchserve.url,
                "key_file": torchserve.key_file,
                "canary_file": torchserve.key_file.with_name("canary.json"),
                "api_keys_file": torchserve.key_file.with_name("api_keys.json"),
                **changes,
            }
        )
        app = create_app(settings)
        context = serving(app)
        gateway = Gateway(context.__enter__(), app)
        running.append(context)
        return gateway

    yield start
    for context in running:
        context.__exit__(None, None, None)


@pytest.fixture
def gateway(start_gateway: Callable[..., Gateway]) -> Gateway:
    """A gateway with the default settings."""
    return start_gateway()


JPEG = {"Content-Type": "image/jpeg"}
OCTETS = {"Content-Type": "application/octet-stream"}


def identify(gateway: Gateway, *files: bytes, **request: object) -> requests.Response:
    """Post photos as form files, as `curl -F file=@photo.jpg` does."""
    form = [("file", (f"{index}.jpg", data)) for index, data in enumerate(files)]
    return requests.post(f"{gateway.url}/v1/identify", files=form, timeout=30, **request)


def identify_json(gateway: Gateway, body: object, **request: object) -> requests.Response:
    """Post a JSON body; one that is bytes as it is."""
    content = body if isinstance(body, bytes) else json.dumps(body)
    request = {"headers": {"Content-Type": "application/json"}, **request}
    return requests.post(f"{gateway.url}/v1/identify", data=content, timeout=30, **request)


def identify_raw(gateway: Gateway, body: object, **request: object) -> requests.Response:
    """Post a photo as the body itself."""
    request = {"headers": JPEG, **request}
    return requests.post(f"{gateway.url}/v1/identify", data=body, timeout=30, **request)


def assert_error(response: requests.Response, status: int, code: str) -> str:
    """The response is an error of the contract; its message comes back."""
    body = response.json()
    assert (response.status_code, body["error"]["code"]) == (status, code)
    assert body["request_id"] == response.headers["X-Request-Id"]
    assert set(body) == {"error", "request_id"}
    return body["error"]["message"]
