"""What surrounds every request: its id, its line in the log, and the net under it."""

from __future__ import annotations

import logging
import re
import time
import uuid
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import InternalError, error_response

__all__ = ["Net", "RequestContext"]

logger = logging.getLogger(__name__)

# What the worker takes, less room for the suffix that tells a request's photos apart.
_SANE_REQUEST_ID = re.compile(r"[\w.:/+=-]{1,100}", re.ASCII)


class RequestContext:
    """ASGI middleware that gives each request an id and a line in the log.

    A caller's own `X-Request-Id` is taken over if it is sane, so that one id follows a request
    through all the systems it passes. It is in `request.state.request_id`, in the response's
    header and in the log. Headers and bodies are never logged: they hold keys and people's photos.
    Of a key the log has the name.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = Headers(scope=scope).get("x-request-id", "")
        request_id = asked if _SANE_REQUEST_ID.fullmatch(asked) else uuid.uuid4().hex
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        status = 0  # no response yet

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        start = time.perf_counter()
        try:
            await self._app(scope, receive, send_with_id)
        finally:
            probed = scope["path"] in ("/healthz", "/readyz") and status == HTTPStatus.OK
            logger.log(
                # Balancers ask every few seconds: only what they are refused is news.
                logging.DEBUG if probed else logging.INFO,
                "%s %s %s %.1f ms %s %s",
                scope["method"],
                # As it was sent, percent-encoded: line breaks in it would forge lines.
                scope["raw_path"].decode("ascii", "backslashreplace"),
                status or "gone",
                (time.perf_counter() - start) * 1000,
                request_id,
                state.get("key_name", "-"),
            )


class Net:
    """ASGI middleware that catches what nobody expected and answers for it.

    It is the innermost one but for who may call, so that its answers get what all others get:
    request id, CORS headers, a place in the metrics.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_answered = False

        async def send_and_note(message: Message) -> None:
            nonlocal is_answered
            is_answered = True
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except ClientDisconnect:
            pass  # nobody is left to answer
        except Exception:
            request_id = scope["state"]["request_id"]
            logger.exception("request %s failed", request_id)
            if not is_answered:
                await error_response(InternalError(), request_id)(scope, receive, send)
