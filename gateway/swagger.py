"""`/swagger/`: the API's description to read and to try, without any outside resource."""

from __future__ import annotations

import json

from fastapi import APIRouter, FastAPI, Request
from fastapi.staticfiles import StaticFiles
from starlette.responses import HTMLResponse, RedirectResponse, Response

__all__ = ["install_swagger"]

# FastAPI's own page loads Swagger UI from a CDN; this package carries it.
_ASSETS = ("fastapi_swagger", "resources")
# FastAPI's also starts it by a script inside the page, which headers.py forbids.
_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}: API</title>
<link rel="stylesheet" href="{root}/swagger/assets/swagger-ui.css">
<link rel="icon" href="{root}/swagger/assets/favicon-32x32.png">
</head>
<body>
<div id="swagger-ui"></div>
<script src="{root}/swagger/assets/swagger-ui-bundle.js"></script>
<script src="{root}/swagger/start.js"></script>
</body>
</html>
"""


def install_swagger(app: FastAPI) -> None:
    """Serve Swagger UI at `/swagger/`, where the predecessor had it."""
    router = APIRouter(include_in_schema=False)

    @router.get("/swagger")
    async def without_slash(request: Request) -> RedirectResponse:
        return RedirectResponse(f"{_root(request)}/swagger/")

    @router.get("/swagger/")
    async def page(request: Request) -> HTMLResponse:
        return HTMLResponse(_PAGE.format(title=app.title, root=_root(request)))

    @router.get("/swagger/start.js")
    async def start(request: Request) -> Response:
        options = {
            "url": f"{_root(request)}{app.openapi_url}",
            "dom_id": "#swagger-ui",
            "deepLinking": True,
            "displayRequestDuration": True,
            "tryItOutEnabled": True,
        }
        return Response(f"SwaggerUIBundle({json.dumps(options)});", media_type="text/javascript")

    app.include_router(router)
    app.mount("/swagger/assets", StaticFiles(packages=[_ASSETS]), name="swagger-assets")


def _root(request: Request) -> str:
    return str(request.scope.get("root_path", ""))
