"""What can go wrong when asking a server.

    CarIdentifierError
    ├── ServerNotRunningError     nothing answers at this address
    ├── ServerUnavailableError    it can't answer now: 429 or 5xx, to every repetition
    ├── RequestRefusedError       it refuses this photo or this request: another try is no use
    └── UnexpectedAnswerError     what answers is no Car Identifier, or has a bug

A photo that can't be read from the disk is the `OSError` that Python makes of it.
"""

from __future__ import annotations

__all__ = [
    "CarIdentifierError",
    "RequestRefusedError",
    "ServerNotRunningError",
    "ServerUnavailableError",
    "UnexpectedAnswerError",
]


class CarIdentifierError(Exception):
    """Base of every error of this client; its text says what to do."""


class ServerNotRunningError(CarIdentifierError):
    """Nothing answers at the server's address."""


class UnexpectedAnswerError(CarIdentifierError):
    """The answer is not what a Car Identifier sends."""


class _ToldError(CarIdentifierError):
    """The server said what is wrong, in the API's error shape.

    Attributes:
        status: HTTP status, e.g. 422.
        code: machine-readable name, e.g. "image_unreadable".
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
