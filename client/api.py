"""Asking a Car Identifier server from Python."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeVar
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from client.errors import (
    RequestRefusedError,
    ServerNotRunningError,
    ServerUnavailableError,
    UnexpectedAnswerError,
)
from client.types import Answer, LabelTable

__all__ = ["DEFAULT_URL", "CarIdentifierClient"]

DEFAULT_URL = "http://127.0.0.1:8000"

_CONNECT_TIMEOUT_S = 5.0
_RETRIED = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)

_Parsed = TypeVar("_Parsed")


class CarIdentifierClient:
    """A connection to one server, kept open between calls; close it or use it in a `with` block.

    Calls that the server answers with 429 or 503 are repeated: after the time it names, or with a
    growing, random pause.

    Args:
        url: where the server is, e.g. "http://127.0.0.1:8000".
        timeout: seconds to wait for an answer.
        retries: how often a call is repeated at most.
    """

    def __init__(self, url: str = DEFAULT_URL, *, timeout: float = 60, retries: int = 4) -> None:
        self.url = (url if "://" in url else f"http://{url}").rstrip("/")
        self._timeout = (_CONNECT_TIMEOUT_S, timeout)
        self._session = requests.Session()
        # A proxy from the environment can't reach this machine's own loopback.
        self._session.trust_env = not _is_loopback(self.url)
        self._session.headers["User-Agent"] = "carid/1.0"
        # Only API calls: /readyz says 503 to be heard, not to be asked again.
        self._session.mount(f"{self.url}/v1/", HTTPAdapter(max_retries=_retry_policy(retries)))

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
        self, photo: str | os.PathLike[str] | bytes | BinaryIO, *, top_k: int | None = None
    ) -> Answer:
        """Ask which car is on a photo.

        Args:
            photo: a path, the file's bytes, or a file opened for reading bytes. JPEG, PNG, WebP or
                HEIC, up to 20 MB.
            top_k: how many predictions to get, 1 to 20; None for the server's default.

        Raises:
            OSError: the photo can't be read.
            RequestRefusedError: the server can't make sense of the photo or the option.
            ServerUnavailableError: it can't answer now.
            ServerNotRunningError: nothing answers there.
            UnexpectedAnswerError: something else answers there.
        """
        if isinstance(photo, str | os.PathLike):
            data = Path(photo).read_bytes()
        else:
            data = photo if isinstance(photo, bytes) else photo.read()
        return self._call(
            Answer.from_json,
            "POST",
            "/v1/identify",
            params={} if top_k is None else {"top_k": top_k},
            data=data,
            headers={"Content-Type": "application/octet-stream"},
        )

    def labels(self) -> LabelTable:
        """Ask for all car models that the server can tell apart.

        Raises:
            CarIdentifierError: as for `identify`.
        """
        return self._call(LabelTable.from_json, "GET", "/v1/labels")

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
        except requests.Timeout as error:
            raise ServerNotRunningError(
                f"{self.url} has not answered in {self._timeout[1]:g} s. Is it reachable from "
                "here, and is the address right?"
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
            raise UnexpectedAnswerError(
                f"What answers at {self.url} is no Car Identifier (HTTP {response.status_code}). "
                "Is the address right?"
            ) from error
        later = (
            response.status_code == HTTPStatus.TOO_MANY_REQUESTS
            or response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR
        )
        kind = ServerUnavailableError if later else RequestRefusedError
        raise kind(response.status_code, code, message, request_id)


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
        retry_after_max=30,
        raise_on_status=False,  # the last answer says why
    )


def _is_loopback(url: str) -> bool:
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
