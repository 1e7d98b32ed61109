"""API keys in OpenAPI's words."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

__all__ = ["describe_keys"]

_SCHEMES = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key, as `Authorization: Bearer carid_…`.",
    },
    "api_key": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "An API key, as `X-API-Key: carid_…`.",
    },
}
# Where the server listens on loopback or lets everyone in, no key is needed.
_EITHER_OR_NONE: list[dict[str, list[str]]] = [{}, {"bearer": []}, {"api_key": []}]


def describe_keys(app: FastAPI) -> None:
    """Say in the application's OpenAPI how keys are sent, at each operation that may answer 401."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema:
            return app.openapi_schema
        description = generate()
        description["components"]["securitySchemes"] = _SCHEMES
        for operations in description["paths"].values():
            for operation in operations.values():
                if "401" in operation["responses"]:
                    operation["security"] = _EITHER_OR_NONE
        return description

    app.openapi = openapi  # type: ignore[method-assign]
