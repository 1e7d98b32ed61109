"""Puts the gateway together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from gateway import health, identify, labels, legacy, metrics, models
from gateway.access import REFUSALS, UPLOAD_REFUSALS, Access
from gateway.canary import Canary
from gateway.drain import Drain, Farewell
from gateway.early_answers import EarlyAnswers
from gateway.errors import error_responses, install_error_handlers
from gateway.head_requests import HeadRequests
from gateway.headers import SecurityHeaders, cors_options
from gateway.health import ReadinessProbe
from gateway.identify import Identifier
from gateway.key_description import describe_keys
from gateway.labels import LabelCache
from gateway.metrics import Metrics, MetricsMiddleware
from gateway.middleware import Net, RequestContext
from gateway.models import ServedModels
from gateway.page import install_page
from gateway.retiring import Retiring
from gateway.settings import Settings
from gateway.swagger import install_swagger
from gateway.torchserve_metrics import TorchServeMetrics
from gateway.uploads import UploadMemory
from gateway.upstream import TorchServe

__all__ = ["API_VERSION", "create_app"]

API_VERSION = "1.0.0"

_DESCRIPTION = """\
A photo of a car in; make, model and year out, with honest confidence.

```
curl -F file=@photo.jpg http://localhost:8000/v1/identify
```

Every error has one shape, `{"error": {"code", "message"}, "request_id"}`, and every response an
`X-Request-Id` header: your own, if you sent one. Photos are never stored.
"""


def create_app(settings: Settings | None = None) -> FastAPI:
    """The gateway as an ASGI application; settings come from the environment where not given."""
    settings = settings or Settings()
    figures = Metrics()
    upstream = TorchServe(settings, figures.photo_wait.observe)
    memory = UploadMemory(settings.upload_memory_bytes)
    canary = Canary(upstream, memory, settings)
    drain = Drain()
    figures.watch_upload_memory(lambda: memory.in_use, settings.upload_memory_bytes)
    figures.watch_torchserve(upstream)
    figures.watch_canary(canary)
    figures.watch_disk(settings.key_file.parent)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await canary.aclose()
        await upstream.aclose()

    app = FastAPI(
        title="Car Identifier",
        version=API_VERSION,
        description=_DESCRIPTION,
        license_info={"name": "MIT", "identifier": "MIT"},
        openapi_tags=[
            {"name": "identify", "description": "Photos in, cars out."},
            {"name": "models", "description": "What is served."},
            {"name": "predecessor", "description": "For callers of the service before this one."},
            {"name": "health", "description": "For balancers and scripts."},
        ],
        # The function's name: it is what generated clients call the operation.
        generate_unique_id_function=lambda route: route.name,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.identifier = Identifier(
        upstream,
        canary,
        Retiring(settings.canary_file.with_name("retiring.json")),
        memory,
        settings,
        count=figures.count_photo,
    )
    app.state.models = ServedModels(settings.model_name, upstream, canary)
    app.state.labels = LabelCache(upstream, settings.labels_ttl_s)
    app.state.drain = drain
    app.state.readiness = ReadinessProbe(upstream, settings.ready_ttl_s, drain)
    app.state.metrics = figures
    app.state.torchserve_metrics = TorchServeMetrics(upstream)
    app.include_router(identify.router, responses=error_responses(*UPLOAD_REFUSALS))
    app.include_router(labels.router, responses=error_responses(*REFUSALS))
    app.include_router(models.router, responses=error_responses(*REFUSALS))
    app.include_router(legacy.router)
    app.include_router(health.router)
    app.include_router(metrics.router, responses=error_responses(*REFUSALS))
    install_page(app)
    install_swagger(app)
    install_error_handlers(app)
    describe_keys(app)
    _surround(app, settings)
    return app


def _surround(app: FastAPI, settings: Settings) -> None:
    """Add the middleware, from the inside out."""
    app.add_middleware(HeadRequests)
    app.add_middleware(Access, settings=settings)
    app.add_middleware(Net)
    if settings.cors_origins:
        app.add_middleware(CORSMiddleware, **cors_options(settings))
    app.add_middleware(MetricsMiddleware, api=app, metrics=app.state.metrics)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(RequestContext)
    app.add_middleware(EarlyAnswers)
    app.add_middleware(Farewell, drain=app.state.drain)
