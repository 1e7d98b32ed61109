"""What becomes of a connection whose request was answered before it had arrived."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["EarlyAnswers"]

# How long a sender may go on, who hears of the refusal only at the end of what it sends.
_PATIENCE_S = 2.0


class EarlyAnswers:
    """ASGI middleware that closes the connection after an answer to a body not read to its end.

    Who is refused by a header would otherwise keep the server reading for as long as it likes. It
    is read on for a moment first, and thrown away: a connection that is closed with bytes unread
    is reset, which can cost the sender the answer.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or not _has_body(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        is_complete = is_early = False

        async def receive_and_note() -> Message:
            nonlocal is_complete
            message = await receive()
            is_complete = not message.get("more_body", False)
            return message

        async def drain() -> None:
            while not is_complete:
                await receive_and_note()

        async def send_and_close(message: Message) -> None:
            nonlocal is_early
            if message["type"] == "http.response.start":
                is_early = not is_complete
                if is_early:
                    MutableHeaders(scope=message)["Connection"] = "close"
            elif is_early and not message.get("more_body", False):
                await send({**message, "more_body": True})
                try:
                    async with asyncio.timeout(_PATIENCE_S):
                        await drain()
                except TimeoutError:
                    pass
                message = {"type": "http.response.body"}
            await send(message)

        await self._app(scope, receive_and_note, send_and_close)


def _has_body(headers: Headers) -> bool:
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
