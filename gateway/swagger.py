"""`/swagger/`: the API's description to read and to try, without any outside resource."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.staticfiles import StaticFiles
from starlette.responses import HTMLResponse, RedirectResponse

__all__ = ["install_swagger"]

# FastAPI's own page loads Swagger UI from a CDN; this package carries it.
_ASSETS = ("fastapi_swagger", "resources")


def install_swagger(app: FastAPI) -> None:
    """Serve Swagger UI at `/swagger/`, where the predecessor had it."""
    router = APIRouter(include_in_schema=False)

    @router.get("/swagger")
    async def without_slash(request: Request) -> RedirectResponse:
        return RedirectResponse(f"{request.scope.get('root_path', '')}/swagger/")

    @router.get("/swagger/")
    async def page(request: Request) -> HTMLResponse:
        root = request.scope.get("root_path", "")
        return get_swagger_ui_html(
            openapi_url=f"{root}{app.openapi_url}",
            title=f"{app.title}: API",
            swagger_js_url=f"{root}/swagger/assets/swagger-ui-bundle.js",
            swagger_css_url=f"{root}/swagger/assets/swagger-ui.css",
            swagger_favicon_url=f"{root}/swagger/assets/favicon-32x32.png",
            swagger_ui_parameters={"tryItOutEnabled": True, "displayRequestDuration": True},
        )

    app.include_router(router)
    app.mount("/swagger/assets", StaticFiles(packages=[_ASSETS]), name="swagger-assets")
