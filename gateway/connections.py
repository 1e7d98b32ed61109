"""What a connection does before there is a request that the application could answer.

uvicorn gives the application a request when its head is there. Until then nobody bounds how large
the head grows or how long it takes, and what is no HTTP is refused in a shape of its own.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from http import HTTPStatus

from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.errors import (
    GatewayError,
    HeadTooLargeError,
    RequestUnreadableError,
    UploadTimeoutError,
    error_response,
)

__all__ = ["Connection", "ConnectionConfig", "PatientConnection"]

logger = logging.getLogger(__name__)

_MAX_HEAD_BYTES = 64 * 1024
# How long a connection may stay without a request once no new ones are taken.
_LAST_WORD_S = 2.0


class ConnectionConfig(Config):
    """uvicorn's configuration, with what its connections need beside it.

    Attributes:
        head_timeout_s: how long a request's head may take to arrive, and a new connection to begin
            one.
    """

    head_timeout_s: float


class Connection(HttpToolsProtocol):
    """uvicorn's connection, which bounds a request's head and refuses as everything here does."""

    config: ConnectionConfig
    _head_bytes = 0
    _is_begun = False
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; those of a head are counted, but for the first ones."""
        self._head_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._head_timer is None:
            if self.cycle is None or self.cycle.response_complete:  # line breaks after a request
                self._await_head()
        elif self._head_bytes > _MAX_HEAD_BYTES:
            self._refuse(HeadTooLargeError())

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._await_head()
        self._is_begun = True

    def on_headers_complete(self) -> None:
        """Its head is there: from here on the application watches the time."""
        self._stop_timer()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self._refuse(RequestUnreadableError())

    def _await_head(self) -> None:
        self._stop_timer()
        self._head_bytes = 0
        self._is_begun = False
        self._head_timer = self.loop.call_later(self.config.head_timeout_s, self._give_up)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        if self._is_begun:
            seconds = self.config.head_timeout_s
            self._refuse(UploadTimeoutError(f"The request did not arrive within {seconds:g} s."))
        else:
            self.transport.close()

    def _refuse(self, error: GatewayError) -> None:
        """Answer, unless an earlier request's answer is on its way, and close."""
        if self.cycle is None or not self.cycle.response_started or self.cycle.response_complete:
            request_id = uuid.uuid4().hex
            response = error_response(error, request_id)
            headers = [
                *response.raw_headers,
                (b"x-request-id", request_id.encode()),
                (b"connection", b"close"),
            ]
            status = f"HTTP/1.1 {error.status:d} {HTTPStatus(error.status).phrase}\r\n"
            lines = b"".join(b"%b: %b\r\n" % header for header in headers)
            self.transport.write(status.encode() + lines + b"\r\n" + bytes(response.body))
            logger.info("refused before there was a request: %d %s", error.status, request_id)
        self.transport.close()


class PatientConnection(Connection):
    """A connection that is not cut while its request may be on the way."""

    def shutdown(self) -> None:
        """Close when the request under way is answered; without one, soon."""
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(_LAST_WORD_S, super().shutdown)
        else:
            super().shutdown()
