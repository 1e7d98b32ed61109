"""`/`: the web page, without any outside resource."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, FastAPI, Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

__all__ = ["install_page"]

_FILES = Path(__file__).with_name("page")


class _Revalidated(StaticFiles):
    """Static files that a browser asks about each time: unchanged ones cost it a 304."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """The file, or 304 where the browser has it already."""
        response = await super().get_response(path, scope)
        # Without it browsers guess, and after an update old scripts would meet a new page.
        response.headers["Cache-Control"] = "no-cache"
        return response


def install_page(app: FastAPI) -> None:
    """Serve the page at `/` and what it is made of at `/assets/`.

    The page's own addresses are relative, so that it works behind a proxy's prefix too.
    """
    files = _Revalidated(directory=_FILES)
    router = APIRouter(include_in_schema=False)

    @router.api_route("/", methods=["GET", "HEAD"])
    async def page(request: Request) -> Response:
        return await files.get_response("index.html", request.scope)

    app.include_router(router)
    app.mount("/assets", files, name="assets")
