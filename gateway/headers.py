"""Response headers that tell browsers what not to do."""

from __future__ import annotations

from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.settings import Settings

__all__ = ["SecurityHeaders", "cors_options"]

_CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "font-src 'self'",
        "img-src 'self' data: blob:",  # a chosen photo, a heatmap, Swagger UI's icons
        "connect-src 'self'",
        "form-action 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _CONTENT_SECURITY_POLICY,
    "Permissions-Policy": "camera=(self), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
# What browsers may keep, in the way that each says itself: pages and what they are made of.
_KEPT = ("/assets/", "/swagger")


class SecurityHeaders:
    """ASGI middleware that adds them to every response, and keeps answers out of caches."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        may_be_kept = scope["path"] == "/" or scope["path"].startswith(_KEPT)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if not may_be_kept:
                    headers["Cache-Control"] = "no-store"
            await send(message)

        await self._app(scope, receive, send_with_headers)


def cors_options(settings: Settings) -> dict[str, Any]:
    """Starlette's `CORSMiddleware`, in its own words: what scripts of other web sites may do.

    No cookies: keys travel in headers, so no site can use a visitor's without having it.
    """
    return {
        "allow_origins": settings.cors_origins,
        "allow_methods": ("GET", "POST"),
        "allow_headers": ("Authorization", "Content-Type", "X-API-Key", "X-Request-Id"),
        "expose_headers": ("Retry-After", "X-Request-Id"),
    }
