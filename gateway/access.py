"""Who may call: keys and limits, looked at before a byte of a body is read.

Where the gateway listens on loopback, everyone on the machine may call, as often as they like.
Elsewhere a key is needed, unless the operator lets people in without one, at a low limit. Nothing
is let in by being forgotten: what needs no key is listed here, and all else needs one.

A key that was given is looked at also where none is needed: a typing error or a revoked key should
show at once, and not on the day the server moves.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from enum import Enum

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import (
    GatewayError,
    InternalError,
    RateLimitedError,
    UnauthorizedError,
    UploadTimeoutError,
    error_response,
)
from gateway.keys import ApiKey, KeyStore, KeyStoreError
from gateway.rate_limits import Allowance, RateLimits, network_of
from gateway.settings import Settings

__all__ = ["REFUSALS", "UPLOAD_REFUSALS", "Access", "AccessMode", "access_mode"]

logger = logging.getLogger(__name__)

_OPEN_PATHS = frozenset(
    {"/", "/healthz", "/readyz", "/openapi.json", "/swagger", "/cars/v1/get_car_details"}
)
_OPEN_FOLDERS = ("/assets/", "/swagger/")
_HOW_TO_SEND = "Send it as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'."
_NO_KEY = f"This server needs an API key. {_HOW_TO_SEND} Its operator can give you one."
_WRONG_KEY = "This API key is not known here: it was mistyped or revoked. Ask for another one."

# Examples for the description of every route that is not open, and of those that take photos.
REFUSALS = (
    UnauthorizedError(_NO_KEY),
    RateLimitedError("You may send 600 photos a minute. Try again in 1 s.", 1),
    InternalError(),
)
UPLOAD_REFUSALS = (
    *REFUSALS,
    UploadTimeoutError(
        "The request did not arrive within 60 s. Send fewer or smaller photos at a time."
    ),
)


class AccessMode(Enum):
    """What a caller needs."""

    OPEN = "nothing"
    KEY = "a key"
    ANONYMOUS = "a key for more than the low limit"


def access_mode(settings: Settings) -> AccessMode:
    """What the settings come to."""
    match settings.access:
        case "key":
            return AccessMode.KEY
        case "anonymous":
            return AccessMode.ANONYMOUS
        case "auto":
            return AccessMode.OPEN if _is_loopback(settings.host) else AccessMode.KEY


class Access:
    """ASGI middleware that turns away who may not call, and who takes too long to.

    A request to anything that is not open to all finds its `Allowance` in
    `request.state.allowance`, one photo of it taken. The name of its key, if it has one, is in
    `request.state.key_name`.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._mode = access_mode(settings)
        self._keys = KeyStore(settings.api_keys_file)
        self._limits = RateLimits()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            if not _is_open(scope):
                self._admit(scope)
        except GatewayError as error:
            response = error_response(error, scope["state"]["request_id"])
            await response(scope, receive, send)
            return
        await self._app(scope, _in_time(receive, self._settings.upload_timeout_s), send)

    def _admit(self, scope: Scope) -> None:
        key = self._key(Headers(scope=scope))
        if key:
            scope["state"]["key_name"] = key.name
        allowance = self._allowance(scope, key)
        scope["state"]["allowance"] = allowance
        allowance.take(1)

    def _key(self, headers: Headers) -> ApiKey | None:
        secret = _secret(headers)
        if secret is None:
            if self._mode is AccessMode.KEY:
                raise UnauthorizedError(_NO_KEY)
            return None
        try:
            key = self._keys.find(secret)
        except KeyStoreError as error:
            logger.error("%s", error)
            raise InternalError from error
        if key is None:
            raise UnauthorizedError(_WRONG_KEY)
        return key

    def _allowance(self, scope: Scope, key: ApiKey | None) -> Allowance:
        if self._mode is AccessMode.OPEN:
            return self._limits.of("anyone", None)
        if key:
            # By its hash: a new key of an old one's name begins with a full allowance.
            return self._limits.of(key.sha256, key.per_minute or self._settings.rate_per_minute)
        address = scope["client"][0] if scope.get("client") else ""
        return self._limits.of(network_of(address), self._settings.anonymous_per_minute)


def _is_open(scope: Scope) -> bool:
    path = scope["path"]
    return scope["method"] in ("GET", "HEAD") and (
        path in _OPEN_PATHS or path.startswith(_OPEN_FOLDERS)
    )


def _secret(headers: Headers) -> str | None:
    """The key as it was given; None where none was, as with another kind of authorization."""
    if (key := headers.get("x-api-key")) is not None:
        return key
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    return credentials.strip() if scheme.lower() == "bearer" else None


def _in_time(receive: Receive, seconds: float) -> Receive:
    """A `receive` for a body that has so many seconds from now."""
    deadline = asyncio.get_running_loop().time() + seconds
    is_complete = False

    async def receive_in_time() -> Message:
        nonlocal is_complete
        if is_complete:  # from here on it only waits for the client to hang up
            return await receive()
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError as error:
            raise UploadTimeoutError(
                f"The request did not arrive within {seconds:g} s. Send fewer or smaller photos at "
                "a time."
            ) from error
        is_complete = not message.get("more_body", False)
        return message

    return receive_in_time


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
