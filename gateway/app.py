"""Puts the gateway together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from gateway import health, identify, labels
from gateway.errors import install_error_handlers
from gateway.health import ReadinessProbe
from gateway.identify import Identifier
from gateway.labels import LabelCache
from gateway.middleware import RequestContext
from gateway.settings import Settings
from gateway.swagger import install_swagger
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
    upstream = TorchServe(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await upstream.aclose()

    app = FastAPI(
        title="Car Identifier",
        version=API_VERSION,
        description=_DESCRIPTION,
        license_info={"name": "MIT", "identifier": "MIT"},
        openapi_tags=[
            {"name": "identify", "description": "Photos in, cars out."},
            {"name": "health", "description": "For balancers and scripts."},
        ],
        # The function's name: it is what generated clients call the operation.
        generate_unique_id_function=lambda route: route.name,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.identifier = Identifier(upstream, settings)
    app.state.labels = LabelCache(upstream, settings.labels_ttl_s)
    app.state.readiness = ReadinessProbe(upstream, settings.ready_ttl_s)
    app.include_router(identify.router)
    app.include_router(labels.router)
    app.include_router(health.router)
    install_swagger(app)
    install_error_handlers(app)
    app.add_middleware(RequestContext)
    return app
