"""What can go wrong, and the one shape in which a caller hears of it.

    GatewayError
    ├── RequestUnreadableError     400 request_unreadable      no HTTP
    ├── BodyUnreadableError        400 body_unreadable         broken multipart
    ├── ImageMissingError          400 image_missing           no photo, or an empty one
    ├── UnauthorizedError          401 unauthorized            no key, or a wrong one
    ├── NotFoundError              404 not_found
    ├── UnknownVersionError        404 unknown_version         no such version is served
    ├── MethodNotAllowedError      405 method_not_allowed
    ├── UploadTimeoutError         408 upload_timeout
    ├── ImageTooLargeError         413 image_too_large
    ├── BodyTooLargeError          413 body_too_large
    ├── TooManyPhotosError         413 too_many_photos
    ├── UnsupportedMediaTypeError  415 unsupported_media_type  a body that holds no photo
    ├── InvalidOptionError         422 invalid_option
    ├── RateLimitedError           429 rate_limited
    ├── HeadTooLargeError          431 head_too_large
    ├── PhotoRefusedError          as the worker says: image_unreadable, unsupported_image_type, …
    ├── InternalError              500 internal_error          a bug, here or in the worker
    ├── NotReadyError              503 not_ready               the answer of /readyz
    ├── ModelUnavailableError      503 model_unavailable       TorchServe or its worker is down
    ├── ServerBusyError            503 server_busy             more work than fits; come back
    └── AnswerTimeoutError         504 timeout

Every error leaves as `{"error": {"code", "message"}, "request_id"}`. Messages are for the caller:
they say what to do next and hold nothing of the inside (paths, addresses, stack traces).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, ClassVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from gateway.schemas import EXAMPLE_REQUEST_ID, ErrorBody, ErrorDetail

__all__ = [
    "AnswerTimeoutError",
    "BodyTooLargeError",
    "BodyUnreadableError",
    "GatewayError",
    "HeadTooLargeError",
    "ImageMissingError",
    "ImageTooLargeError",
    "InternalError",
    "InvalidOptionError",
    "MethodNotAllowedError",
    "ModelUnavailableError",
    "NotFoundError",
    "NotReadyError",
    "PhotoRefusedError",
    "RateLimitedError",
    "RequestUnreadableError",
    "ServerBusyError",
    "TooManyPhotosError",
    "UnauthorizedError",
    "UnsupportedMediaTypeError",
    "UploadTimeoutError",
    "error_response",
    "error_responses",
    "install_error_handlers",
    "invalid_option",
]


class GatewayError(Exception):
    """Base of every error that is told to a caller.

    Attributes:
        status: HTTP status.
        code: the machine-readable name.
        message: what happened and what to do next.
        retry_after: seconds after which the same request may succeed; None where it won't.
        headers: what HTTP wants said beside the body.
    """

    status: int = HTTPStatus.INTERNAL_SERVER_ERROR
    code: str = "internal_error"
    retry_after: int | None = None
    headers: ClassVar[Mapping[str, str]] = {}

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    @property
    def detail(self) -> ErrorDetail:
        """Code and message, as they are sent."""
        return ErrorDetail(code=self.code, message=self.message)


class RequestUnreadableError(GatewayError):
    """What came is no HTTP, or not what HTTP allows."""

    status, code = HTTPStatus.BAD_REQUEST, "request_unreadable"

    def __init__(self) -> None:
        super().__init__(
            "This is no HTTP request that can be read. Addresses are percent-encoded ASCII, at "
            "most 64 kB long."
        )


class HeadTooLargeError(GatewayError):
    """The request's address and headers have too many bytes."""

    status, code = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "head_too_large"

    def __init__(self) -> None:
        super().__init__(
            "The request's address and headers are larger than 64 kB. Send options and photos in "
            "the body."
        )


class BodyUnreadableError(GatewayError):
    """The request's body can't be taken apart."""

    status, code = HTTPStatus.BAD_REQUEST, "body_unreadable"


class ImageMissingError(GatewayError):
    """The request holds no photo, or an empty one."""

    status, code = HTTPStatus.BAD_REQUEST, "image_missing"


class UnauthorizedError(GatewayError):
    """The request has no API key where one is needed, or one that opens nothing."""

    status, code = HTTPStatus.UNAUTHORIZED, "unauthorized"
    headers = {"WWW-Authenticate": "Bearer"}  # noqa: RUF012 - ClassVar in the base


class NotFoundError(GatewayError):
    """There is nothing at this path."""

    status, code = HTTPStatus.NOT_FOUND, "not_found"


class UnknownVersionError(GatewayError):
    """The version that was asked for is not served."""

    status, code = HTTPStatus.NOT_FOUND, "unknown_version"

    def __init__(self, version: str) -> None:
        super().__init__(
            f"There is no version {version!r} of the model. GET /v1/models lists those there are."
        )


class MethodNotAllowedError(GatewayError):
    """The path exists, but not for this method."""

    status, code = HTTPStatus.METHOD_NOT_ALLOWED, "method_not_allowed"


class UploadTimeoutError(GatewayError):
    """The request did not arrive in time."""

    status, code = HTTPStatus.REQUEST_TIMEOUT, "upload_timeout"


class ImageTooLargeError(GatewayError):
    """One photo has too many bytes."""

    status, code = HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "image_too_large"


class BodyTooLargeError(GatewayError):
    """The whole request has too many bytes."""

    status, code = HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body_too_large"


class TooManyPhotosError(GatewayError):
    """More photos than one request may hold."""

    status, code = HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_many_photos"


class UnsupportedMediaTypeError(GatewayError):
    """The body's type is none that a photo comes in."""

    status, code = HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type"


class InvalidOptionError(GatewayError):
    """An option is unknown, out of range or given twice."""

    status, code = HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_option"


class RateLimitedError(GatewayError):
    """The caller asked for more photos a minute than its limit.

    Args:
        message: what happened and what to do next.
        retry_after: seconds until the limit lets the same request pass.
    """

    status, code = HTTPStatus.TOO_MANY_REQUESTS, "rate_limited"

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PhotoRefusedError(GatewayError):
    """The worker can't answer this photo; its own status, code and message are passed on."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class InternalError(GatewayError):
    """A bug; the log has the details under the same request id."""

    def __init__(self) -> None:
        super().__init__(
            "Something went wrong on the server. Please report it with this request id."
        )


class NotReadyError(GatewayError):
    """No worker has answered a photo recently."""

    status, code = HTTPStatus.SERVICE_UNAVAILABLE, "not_ready"
    retry_after = 2


class ModelUnavailableError(GatewayError):
    """TorchServe or its worker is down, starting or restarting."""

    status, code = HTTPStatus.SERVICE_UNAVAILABLE, "model_unavailable"
    retry_after = 3

    def __init__(
        self, message: str = "The model server is not available. Try again in a few seconds."
    ) -> None:
        super().__init__(message)


class ServerBusyError(GatewayError):
    """There is more work than fits; nothing is wrong."""

    status, code = HTTPStatus.SERVICE_UNAVAILABLE, "server_busy"
    retry_after = 1

    def __init__(
        self,
        message: str = "The model has more photos waiting than it can take. Try again in a second.",
    ) -> None:
        super().__init__(message)


class AnswerTimeoutError(GatewayError):
    """The worker was too slow."""

    status, code = HTTPStatus.GATEWAY_TIMEOUT, "timeout"

    def __init__(self, message: str = "The answer took too long. Try again later.") -> None:
        super().__init__(message)


class _ErrorResponse(JSONResponse):
    """An error on its way out, which leaves its code in the request's state for the metrics."""

    def __init__(self, error: GatewayError, request_id: str) -> None:
        body = ErrorBody(error=error.detail, request_id=request_id)
        super().__init__(body.model_dump(), status_code=error.status, headers=error.headers)
        if error.retry_after is not None:
            self.headers["Retry-After"] = str(error.retry_after)
        self._code = error.code

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["error_code"] = self._code
        await super().__call__(scope, receive, send)


def error_response(error: GatewayError, request_id: str) -> Response:
    """The error as it goes over the wire."""
    return _ErrorResponse(error, request_id)


def error_responses(*examples: GatewayError) -> dict[int | str, dict[str, Any]]:
    """The `responses=` of a route that may answer with these errors, for its OpenAPI."""
    responses: dict[int | str, dict[str, Any]] = {}
    for error in examples:
        response = responses.setdefault(
            int(error.status),
            {
                "model": ErrorBody,
                "description": HTTPStatus(error.status).phrase,
                "content": {"application/json": {"examples": {}}},
            },
        )
        body = ErrorBody(error=error.detail, request_id=EXAMPLE_REQUEST_ID)
        response["content"]["application/json"]["examples"][error.code] = {
            "value": body.model_dump()
        }
        if error.retry_after is not None:
            response["headers"] = {
                "Retry-After": {
                    "description": "Seconds after which to try again.",
                    "schema": {"type": "integer", "minimum": 0},
                }
            }
    return responses


def invalid_option(errors: Sequence[Any], known: Iterable[str]) -> InvalidOptionError:
    """Say in whole sentences what pydantic found wrong with a request's options."""
    problems = []
    for error in errors:
        name = error["loc"][-1]
        if error["type"] == "extra_forbidden":
            problems.append(f"There is no option {name!r}, only {', '.join(known)}.")
        else:
            problems.append(f"{name}: {error['msg']}, not {str(error['input'])[:40]!r}.")
    return InvalidOptionError(" ".join(problems))


def install_error_handlers(app: FastAPI) -> None:
    """Give every error that a route or the router raises the one shape.

    What nobody expected is `Net`'s (middleware.py): only there can the answer still get what
    surrounds every other one.
    """

    @app.exception_handler(GatewayError)
    async def on_gateway_error(request: Request, error: GatewayError) -> Response:
        return error_response(error, request.state.request_id)

    @app.exception_handler(RequestValidationError)
    async def on_invalid_request(request: Request, error: RequestValidationError) -> Response:
        known = [
            parameter["name"]
            for operations in app.openapi()["paths"].get(request.url.path, {}).values()
            for parameter in operations.get("parameters", ())
        ]
        return error_response(invalid_option(error.errors(), known), request.state.request_id)

    @app.exception_handler(HTTPException)
    async def on_router_error(request: Request, error: HTTPException) -> Response:
        path, method = request.url.path, request.method
        headers = dict(error.headers or {})
        if error.status_code == HTTPStatus.NOT_FOUND:
            told: GatewayError = NotFoundError(
                f"There is nothing at {path}. See /swagger/ for what is."
            )
        elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            # The router names only the methods of the first of a path's routes.
            described = [name.upper() for name in app.openapi()["paths"].get(path, ())]
            headers["Allow"] = ", ".join(described) or headers.get("Allow", "GET, HEAD")
            told = MethodNotAllowedError(f"{path} takes {headers['Allow']}, not {method}.")
        else:
            raise error
        response = error_response(told, request.state.request_id)
        response.headers.update(headers)
        return response
