"""`GET /metrics`: what the gateway does, in figures, for Prometheus.

All names begin with `carid_gateway_`. Labels have few values, whatever is sent: an unknown path is
the route "none", a made-up method "other". TorchServe and its workers have metrics of their own.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from functools import cached_property
from http import HTTPMethod
from typing import Protocol

from fastapi import APIRouter, FastAPI, Request
from fastapi.routing import iter_route_contexts
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["CanaryCounts", "Metrics", "MetricsMiddleware", "router"]

_NAMESPACE = "carid_gateway"
_LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_METHODS = frozenset(HTTPMethod)


class CanaryCounts(Protocol):
    """How often a canary was asked, and agreed with the version it may replace."""

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

    def watch_upload_memory(self, in_use: Callable[[], float]) -> None:
        """Show the bytes that uploads hold."""
        gauge = Gauge(
            "upload_memory_bytes", "Bytes of uploads held in memory.",
            namespace=_NAMESPACE, registry=self.registry,
        )  # fmt: skip
        gauge.set_function(in_use)

    def watch_canary(self, canary: CanaryCounts) -> None:
        """Show how a canary does."""
        self.registry.register(_CanaryCollector(canary))


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
    """Requests, errors, latency, photos, memory and the canary's agreement, as text."""
    figures: Metrics = request.app.state.metrics
    return Response(generate_latest(figures.registry), media_type=CONTENT_TYPE_LATEST)
