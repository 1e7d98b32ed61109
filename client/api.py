"""Asking a Car Identifier server from Python."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeVar
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3.util import Retry

from client.errors import (
    CarIdentifierError,
    NotFoundError,
    RateLimitedError,
    RequestRefusedError,
    ServerNotRunningError,
    ServerUnavailableError,
    UnauthorizedError,
    UnexpectedAnswerError,
)
from client.types import Answer, LabelTable, ModelTable

__all__ = ["DEFAULT_URL", "CarIdentifierClient"]

DEFAULT_URL = "http://127.0.0.1:8000"

_CONNECT_TIMEOUT_S = 5.0
# Kept open between calls, where several threads call.
_CONNECTIONS = 64
_RETRIED = (
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.BAD_GATEWAY,  # a proxy's, while the server behind it restarts
)

_KEY_VARIABLE = "CARID_API_KEY"
# Errors that a caller may want to tell from the others of their kind.
_KINDS: dict[int, type[RequestRefusedError | ServerUnavailableError]] = {
    HTTPStatus.UNAUTHORIZED: UnauthorizedError,
    HTTPStatus.NOT_FOUND: NotFoundError,
    HTTPStatus.TOO_MANY_REQUESTS: RateLimitedError,
}

# The `code` of errors that are not the server's own.
_PROXY_ERROR = "proxy_error"

_Parsed = TypeVar("_Parsed")


class CarIdentifierClient:
    """A connection to one server, kept open between calls; close it or use it in a `with` block.

    Calls that are answered with 429, 502 or 503 are repeated: after the time that the answer names,
    or with a growing, random pause.

    Args:
        url: where the server is, e.g. "http://127.0.0.1:8000".
        api_key: what the server's operator gave out; None takes CARID_API_KEY from the environment.
            A server on this machine wants none unless it was told to.
        timeout: seconds to wait for an answer.
        retries: how often a call is repeated at most.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout: float = 60,
        retries: int = 4,
    ) -> None:
        self.url = (url if "://" in url else f"http://{url}").rstrip("/")
        self._timeout = (_CONNECT_TIMEOUT_S, timeout)
        self._session = requests.Session()
        # A proxy from the environment can't reach this machine's own loopback.
        self._session.trust_env = not _is_loopback(self.url)
        self._session.headers["User-Agent"] = "carid/1.0"
        key = os.environ.get(_KEY_VARIABLE) if api_key is None else api_key
        # Not as a header of the session: a password from ~/.netrc would take its place.
        self._session.auth = _Bearer(key.strip()) if key and key.strip() else None
        # Only API calls: /readyz says 503 to be heard, not to be asked again.
        self._session.mount(
            f"{self.url}/v1/",
            HTTPAdapter(pool_maxsize=_CONNECTIONS, max_retries=_retry_policy(retries)),
        )

    def __enter__(self) -> Self:
        """Nothing happens until the first call."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection."""
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._session.close()

    def identify(
        self,
        photo: str | os.PathLike[str] | bytes | BinaryIO,
        *,
        top_k: int | None = None,
        version: str | None = None,
        explain: bool = False,
        box: str | Sequence[int] | None = None,
    ) -> Answer:
        """Ask which car is on a photo.

        Args:
            photo: a path, the file's bytes, or a file opened for reading bytes. JPEG, PNG, WebP or
                HEIC, up to 20 MB.
            top_k: how many predictions to get, 1 to 20; None for the server's default.
            version: which version of the model shall answer; None for the server's default.
            explain: whether to get a heatmap of where the network looked.
            box: left, top, right and bottom of the car in pixels of the upright photo; None lets
                the server look for it.

        Raises:
            OSError: the photo can't be read.
            UnauthorizedError: the server wants an API key.
            NotFoundError: it has no such version.
            RequestRefusedError: it can't make sense of the photo or an option.
            RateLimitedError: it was asked too often, and so were the repetitions.
            ServerUnavailableError: it can't answer now.
            ServerNotRunningError: nothing answers there.
            UnexpectedAnswerError: something else answers there.
        """
        if isinstance(photo, str | os.PathLike):
            data = Path(photo).read_bytes()
        else:
            data = photo if isinstance(photo, bytes) else photo.read()
        options = {
            "top_k": top_k,
            "version": version,
            "explain": "true" if explain else None,
            "box": box if box is None or isinstance(box, str) else ",".join(map(str, box)),
        }
        return self._call(
            Answer.from_json,
            "POST",
            "/v1/identify",
            params={name: value for name, value in options.items() if value is not None},
            data=data,
            headers={"Content-Type": "application/octet-stream"},
        )

    def labels(self) -> LabelTable:
        """Ask for all car models that the server can tell apart.

        Raises:
            CarIdentifierError: as for `identify`.
        """
        return self._call(LabelTable.from_json, "GET", "/v1/labels")

    def models(self) -> ModelTable:
        """Ask which versions of the model are served.

        Raises:
            CarIdentifierError: as for `identify`.
        """
        return self._call(ModelTable.from_json, "GET", "/v1/models")

    def ready(self) -> bool:
        """Whether a photo sent now would be answered; False also where no server runs."""
        try:
            response = self._session.get(f"{self.url}/readyz", timeout=self._timeout)
        except requests.RequestException:
            return False
        return response.status_code == HTTPStatus.OK

    def _call(
        self, parse: Callable[[Mapping[str, Any]], _Parsed], method: str, path: str, **content: Any
    ) -> _Parsed:
        try:
            response = self._session.request(
                method, self.url + path, timeout=self._timeout, **content
            )
        except requests.ConnectTimeout as error:
            raise ServerNotRunningError(
                f"Nothing at {self.url} takes a connection within {_CONNECT_TIMEOUT_S:g} s. Is it "
                "reachable from here, and is the address right?"
            ) from error
        except requests.Timeout as error:
            raise ServerNotRunningError(
                f"{self.url} has not answered in {self._timeout[1]:g} s. Is it busy, and is the "
                "address right?"
            ) from error
        except requests.ConnectionError as error:
            raise ServerNotRunningError(
                f"No server answers at {self.url}. Start it with `make serve`, or name another "
                "address (--url, CARID_URL)."
            ) from error
        except requests.RequestException as error:
            raise ServerNotRunningError(f"Can't ask {self.url}: {error}") from error
        try:
            body = response.json()
            if response.ok:
                return parse(body)
            code, message = body["error"]["code"], body["error"]["message"]
            request_id = body["request_id"]
        except (ValueError, LookupError, TypeError) as error:
            raise self._no_reason(response.status_code) from error
        kind = _KINDS.get(response.status_code) or (
            ServerUnavailableError
            if response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR
            else RequestRefusedError
        )
        if kind is UnauthorizedError:
            message = f"{message} (This client takes it from {_KEY_VARIABLE}, or as `api_key`.)"
        raise kind(response.status_code, code, message, request_id)

    def _no_reason(self, status: int) -> CarIdentifierError:
        """What to make of an answer that is not in the API's shape, as a proxy's own pages."""
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return ServerUnavailableError(
                status,
                _PROXY_ERROR,
                f"A proxy on the way to {self.url} answered HTTP {status} without a reason: the "
                "server behind it may be down or slow. Try again later, or check the address.",
                None,
            )
        if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return RequestRefusedError(
                status,
                _PROXY_ERROR,
                f"A proxy on the way to {self.url} takes no request of this size (HTTP {status}). "
                "Send a smaller photo, or have the proxy's limit raised.",
                None,
            )
        return UnexpectedAnswerError(
            f"What answers at {self.url} is no Car Identifier (HTTP {status}). "
            "Is the address right?"
        )


class _Bearer(AuthBase):
    """The API key, as the server wants it."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add it to a request.

        Raises:
            UnauthorizedError: it holds what no key does.
        """
        if not (self._key.isascii() and self._key.isprintable()):
            raise UnauthorizedError(
                HTTPStatus.UNAUTHORIZED,
                "unauthorized",
                "The API key holds characters that no key has: copy it again.",
                None,
            )
        request.headers["Authorization"] = f"Bearer {self._key}"
        return request


def _retry_policy(retries: int) -> Retry:
    return Retry(
        total=retries,
        # A server that is not there won't be there in a second: say so at once.
        connect=0,
        read=False,
        status_forcelist=[int(status) for status in _RETRIED],
        allowed_methods=None,  # asking about a photo twice changes nothing
        backoff_factor=0.5,
        backoff_jitter=0.5,
        backoff_max=10,
        retry_after_max=60,
        raise_on_status=False,  # the last answer says why
    )


def _is_loopback(url: str) -> bool:
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
