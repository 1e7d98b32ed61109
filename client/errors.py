"""What can go wrong when asking a server.

    CarIdentifierError
    ├── ServerNotRunningError     nothing answers at this address
    ├── ServerUnavailableError    it can't answer now: 429 or 5xx, to every repetition
    │   └── RateLimitedError      too many calls with this key or from this address: 429
    ├── RequestRefusedError       it refuses this photo or this request: another try is no use
    │   ├── UnauthorizedError     no API key, or not one that counts: 401
    │   └── NotFoundError         no such version, or no such path: 404
    ├── UnexpectedAnswerError     what answers is no Car Identifier, or has a bug
    └── VersionError              versions can't be changed as was asked for
        └── TorchServeError       because TorchServe can't be reached, or refuses

A photo that can't be read from the disk is the `OSError` that Python makes of it.
"""

from __future__ import annotations

__all__ = [
    "CarIdentifierError",
    "NotFoundError",
    "RateLimitedError",
    "RequestRefusedError",
    "ServerNotRunningError",
    "ServerUnavailableError",
    "TorchServeError",
    "UnauthorizedError",
    "UnexpectedAnswerError",
    "VersionError",
]


class CarIdentifierError(Exception):
    """Base of every error of this client; its text says what to do."""


class ServerNotRunningError(CarIdentifierError):
    """Nothing answers at the server's address."""


class UnexpectedAnswerError(CarIdentifierError):
    """The answer is not what a Car Identifier sends."""


class _ToldError(CarIdentifierError):
    """The server said what is wrong, in the API's error shape; or a proxy before it refused.

    Attributes:
        status: HTTP status, e.g. 422.
        code: machine-readable name, e.g. "image_unreadable"; "proxy_error" where a proxy on the way
            answered instead, and said no reason.
        message: what to do about it.
        request_id: what to quote when reporting it.
    """

    def __init__(self, status: int, code: str, message: str, request_id: str | None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.request_id = request_id


class RequestRefusedError(_ToldError):
    """The server can't take this photo, this option or this path."""


class ServerUnavailableError(_ToldError):
    """The server has no capacity or no model right now; later it may have."""


class RateLimitedError(ServerUnavailableError):
    """Too many calls with this API key, or without one from this address."""


class UnauthorizedError(RequestRefusedError):
    """The server wants an API key, and this is none that counts."""


class NotFoundError(RequestRefusedError):
    """The server has no such version of the model, or no such path."""


class VersionError(CarIdentifierError):
    """The served versions can't be changed as was asked for; the text says what is served."""


class TorchServeError(VersionError):
    """TorchServe can't be reached, or refuses."""
