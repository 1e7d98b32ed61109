"""`GET /metrics`: the whole service in figures, for Prometheus; one address to scrape is enough.

The gateway's own names begin with `carid_gateway_`. Labels have few values, whatever is sent: an
unknown path is the route "none", a made-up method "other". What TorchServe and its workers show
follows, as torchserve_metrics.py gathers it.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterable
from functools import cached_property
from http import HTTPMethod
from pathlib import Path
from typing import Protocol, get_args

from fastapi import APIRouter, FastAPI, Request
from fastapi.routing import iter_route_contexts
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.canary import Trial
from gateway.errors import (
    AnswerTimeoutError,
    GatewayError,
    InternalError,
    ModelUnavailableError,
    ServerBusyError,
)
from gateway.schemas import Answer
from gateway.torchserve_metrics import TorchServeMetrics
from gateway.upstream import TorchServe

__all__ = ["CanaryCounts", "Metrics", "MetricsMiddleware", "router"]

_NAMESPACE = "carid_gateway"
_LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_WAIT_BUCKETS_S = (0.001, 0.01, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_CONFIDENCE_BUCKETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1)
_METHODS = frozenset(HTTPMethod)
_PHOTO_ROUTES = ("/v1/identify", "/cars/v1/get_car_details")
# Codes → statuses of what is the service's fault when there is no answer to a photo.
_FAILURES = {
    error.code: error.status
    for error in (InternalError, ModelUnavailableError, ServerBusyError, AnswerTimeoutError)
}

# Half of all series, and of no use: Prometheus sees by itself that a counter began anew.
disable_created_metrics()  # type: ignore[no-untyped-call]


class CanaryCounts(Protocol):
    """How often a canary was asked, and agreed with the version it may replace."""

    @property
    def trial(self) -> Trial | None:
        """Which version is on trial; None without one."""

    @property
    def compared(self) -> int:
        """Photos that both versions answered."""

    @property
    def agreed(self) -> int:
        """Those of them whose answers were the same."""

    @property
    def failed(self) -> int:
        """Photos that the canary could not answer."""


class Metrics:
    """The figures of one application, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        ProcessCollector(namespace=_NAMESPACE, registry=registry)
        self.requests = Counter(
            "requests", "Requests, by route, method and HTTP status ('gone': the caller hung up).",
            ("route", "method", "status"), namespace=_NAMESPACE, registry=registry,
        )  # fmt: skip
        self.errors = Counter(
            "errors", "Requests that were answered with an error, by its code.",
            ("code",), namespace=_NAMESPACE, registry=registry,
        )  # fmt: skip
        self.rate_limited = Counter(
            "rate_limited", "Requests over their caller's limit, by who it was: key or anonymous.",
            ("caller",), namespace=_NAMESPACE, registry=registry,
        )  # fmt: skip
        self.latency = Histogram(
            "request_seconds", "From a request's first byte to the end of its answer, in seconds.",
            ("route",), namespace=_NAMESPACE, registry=registry, buckets=_LATENCY_BUCKETS_S,
        )  # fmt: skip
        self.in_flight = Gauge(
            "requests_in_flight", "Requests that are being served.",
            namespace=_NAMESPACE, registry=registry,
        )  # fmt: skip
        self.photos = Counter(
            "photos", "Photos asked about, by verdict, or by the code of the error.",
            ("outcome",), namespace=_NAMESPACE, registry=registry,
        )  # fmt: skip

        self.confidence = Histogram(
            "confidence", "Confidence of answers to users' photos that show a car, 0 to 1.",
            ("version",), namespace=_NAMESPACE, registry=registry, buckets=_CONFIDENCE_BUCKETS,
        )  # fmt: skip
        self.photo_wait = Histogram(
            "photo_wait_seconds", "How long photos waited here for their turn at TorchServe.",
            namespace=_NAMESPACE, registry=registry, buckets=_WAIT_BUCKETS_S,
        )  # fmt: skip

        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """Show what rules ask for before it happens: Prometheus can't see a rise from nothing."""
        for route in _PHOTO_ROUTES:
            for status in _FAILURES.values():
                self.requests.labels(route, "POST", str(int(status)))
        for code in (*_FAILURES, "rate_limited", "unauthorized"):
            self.errors.labels(code)
        for caller in ("key", "anonymous"):
            self.rate_limited.labels(caller)
        for outcome in (*get_args(Answer.model_fields["verdict"].annotation), *_FAILURES):
            self.photos.labels(outcome)

    def count_photo(self, outcome: Answer | GatewayError) -> None:
        """Note what became of one photo of a user."""
        if isinstance(outcome, GatewayError):
            self.photos.labels(outcome.code).inc()
            return
        self.photos.labels(outcome.verdict).inc()
        # Of what is no car the confidence says nothing, and their share is in the verdicts.
        if outcome.verdict != "not_a_car":
            self.confidence.labels(outcome.model_version).observe(outcome.confidence)

    def watch_upload_memory(self, in_use: Callable[[], float], limit: int) -> None:
        """Show the bytes that uploads hold, and how many they may."""
        self._gauge("upload_memory_bytes", "Bytes of uploads held in memory.", in_use)
        self._gauge(
            "upload_memory_limit_bytes",
            "Bytes that uploads may hold; who comes with more is told server_busy.",
            lambda: limit,
        )

    def watch_torchserve(self, upstream: TorchServe) -> None:
        """Show how many photos are at TorchServe, and how many wait for it."""
        self._gauge(
            "photos_under_way", "Photos that are at TorchServe.", lambda: upstream.under_way
        )
        self._gauge("photos_waiting", "Photos that wait for their turn.", lambda: upstream.waiting)

    def watch_disk(self, folder: Path) -> None:
        """Show the space where the folder is."""
        self.registry.register(_DiskCollector(folder))

    def watch_canary(self, canary: CanaryCounts) -> None:
        """Show how a canary does."""
        self.registry.register(_CanaryCollector(canary))

    def _gauge(self, name: str, documentation: str, value: Callable[[], float]) -> None:
        gauge = Gauge(name, documentation, namespace=_NAMESPACE, registry=self.registry)
        gauge.set_function(value)


class _DiskCollector(Collector):
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        try:
            usage = shutil.disk_usage(self._folder)
        except OSError:  # nothing was ever written there
            return
        # Not the size: what is neither used nor to be had is kept back for root, or a quota.
        yield GaugeMetricFamily(
            f"{_NAMESPACE}_disk_free_bytes",
            "Bytes to be had where the run directory is: tokens, API keys, logs.",
            value=usage.free,
        )
        yield GaugeMetricFamily(
            f"{_NAMESPACE}_disk_used_bytes",
            "Bytes in use where the run directory is.",
            value=usage.used,
        )


class _CanaryCollector(Collector):
    def __init__(self, canary: CanaryCounts) -> None:
        self._canary = canary

    def collect(self) -> Iterable[Metric]:
        yield CounterMetricFamily(
            f"{_NAMESPACE}_canary_compared",
            "Photos that the canary and the default version both answered.",
            value=self._canary.compared,
        )
        yield CounterMetricFamily(
            f"{_NAMESPACE}_canary_agreed",
            "Those of them whose class and verdict were the same.",
            value=self._canary.agreed,
        )
        yield CounterMetricFamily(
            f"{_NAMESPACE}_canary_failed",
            "Photos that the default version answered, because the canary could not.",
            value=self._canary.failed,
        )
        share = GaugeMetricFamily(
            f"{_NAMESPACE}_canary_share",
            "Share of the requests that a version on trial gets, 0 to 1; none without a trial.",
            labels=("version",),
        )
        if trial := self._canary.trial:
            share.add_metric((trial.version,), trial.share)
        yield share


class MetricsMiddleware:
    """ASGI middleware that counts and times every request."""

    def __init__(self, app: ASGIApp, api: FastAPI, metrics: Metrics) -> None:
        self._app = app
        self._api = api
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        metrics = self._metrics
        status = "gone"

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        start = time.perf_counter()
        with metrics.in_flight.track_inprogress():
            await self._app(scope, receive, send_and_note)
        route = self._route(scope["path"])
        method = scope["method"] if scope["method"] in _METHODS else "other"
        metrics.requests.labels(route, method, status).inc()
        metrics.latency.labels(route).observe(time.perf_counter() - start)
        if code := scope["state"].get("error_code"):
            metrics.errors.labels(code).inc()
            if code == "rate_limited":
                caller = "key" if "key_name" in scope["state"] else "anonymous"
                metrics.rate_limited.labels(caller).inc()

    def _route(self, path: str) -> str:
        for pattern, template in self._routes:
            if pattern.match(path):
                return template
        return "none"

    @cached_property
    def _routes(self) -> list[tuple[re.Pattern[str], str]]:
        # Not what the router notes in the scope: who is refused never gets there.
        return [
            (context.path_regex, context.path_format or "")
            for context in iter_route_contexts(self._api.routes)
        ]


router = APIRouter(tags=["health"])


@router.get(
    "/metrics",
    summary="Figures for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request) -> Response:
    """The gateway's figures, then TorchServe's and its workers', as text.

    It is answered within seconds whatever becomes of TorchServe, whose part may be missing.
    """
    figures: Metrics = request.app.state.metrics
    torchserve: TorchServeMetrics = request.app.state.torchserve_metrics
    seen = await torchserve.look()
    own = generate_latest(figures.registry) + generate_latest(seen)
    theirs = "".join(f"{line}\n" for line in seen.lines or ())
    return Response(own + theirs.encode(), media_type=CONTENT_TYPE_PLAIN_0_0_4)
