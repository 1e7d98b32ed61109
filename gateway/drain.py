"""Stopping without losing anybody: the gateway says that it goes, and goes when nobody comes.

A balancer that asks /readyz needs some seconds to take notice, and callers with a connection kept
open don't ask it. So after the signal to stop there is a time in which /readyz refuses, each
answer closes its connection, and all else is as ever; `server.py` begins it and ends it.
"""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Drain", "Farewell"]


class Drain:
    """Whether the gateway is about to stop; once it is, there is no way back.

    Attributes:
        is_on: true from the signal on.
    """

    def __init__(self) -> None:
        self.is_on = False


class Farewell:
    """ASGI middleware that ends each connection with the next answer while the gateway drains."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_and_close(message: Message) -> None:
            # Looked at now and not when the request came: a slow one may outlive the signal.
            if message["type"] == "http.response.start" and self._drain.is_on:
                MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        await self._app(scope, receive, send_and_close)
