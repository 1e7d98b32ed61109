"""TorchServe, seen from the operator's side: the one module that knows how its management behaves.

What this hides (all of it observed on TorchServe 0.12):

- Keys lie in a file; a wrong one is answered with 400 `InvalidKeyException`. A new one is asked
  for with the API key: the answer is empty, and the key is in the file.
- It registers archives only from its own model store, by file name. An archive whose workers don't
  become ready is answered with 500 and taken back, as long as its caller waits for that.
- Removing a version drops its requests: what waits in its queue, or is under way, is never
  answered. Scaling it to no workers doesn't: requests that come later get a 503 at once, and those
  under way go back into the queue, where the next worker finds them. (A batch that its worker is
  about to answer may fail with a 500 instead.)
- `pendingRequests` counts what waits in the queue, not what a worker has taken out of it.
- What a version says of itself (`customized=true`) is asked of its worker, through the photos'
  queue: its answer means that all who came before have been taken out.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal

import requests

from client.archives import MODEL, is_version
from client.errors import TorchServeError

__all__ = ["TorchServe", "Version"]

# Above any startupTimeout that makes sense; TorchServe itself gives up earlier.
_LOAD_TIMEOUT_S = 600.0
_ANSWER_TIMEOUT_S = 120.0
_CONNECT_TIMEOUT_S = 5.0
# How long a full queue, or a worker that starts again, is waited for.
_BUSY_PATIENCE_S = 60.0
_BUSY_PAUSE_S = 0.2

_Kind = Literal["inference", "management"]


@dataclass(frozen=True, slots=True)
class Version:
    """A registered version.

    Attributes:
        version: e.g. "1.1".
        archive: its file in the model store.
        default: whether it answers requests that name no version.
        workers: how many it has.
        ready: how many of them have loaded the model and passed its self-check.
        response_timeout: seconds until a worker that does not answer is killed.
        waiting: requests in its queue.
    """

    version: str
    archive: str
    default: bool
    workers: int
    ready: int
    response_timeout: float
    waiting: int


class TorchServe:
    """The management and inference of one TorchServe, as far as versions need them.

    Every method raises TorchServeError where TorchServe can't be reached or refuses.

    Args:
        management_url: e.g. "http://127.0.0.1:8081".
        inference_url: e.g. "http://127.0.0.1:8080".
        key_file: TorchServe's `key_file.json`.
    """

    def __init__(self, management_url: str, inference_url: str, key_file: Path) -> None:
        self._management = management_url.rstrip("/")
        self._inference = inference_url.rstrip("/")
        self._key_file = key_file

    def versions(self) -> list[Version]:
        """All registered versions, by number; none if the model itself is not registered."""
        response = self._send("management", "GET", f"/models/{MODEL}/all")
        if response.status_code == HTTPStatus.NOT_FOUND:
            return []
        found = [_version(entry) for entry in _checked(response).json()]
        default = self._default()
        marked = [_with_default(it, it.version == default) for it in found]
        return sorted(marked, key=lambda it: [int(part) for part in re.findall(r"\d+", it.version)])

    def version(self, version: str) -> Version | None:
        """One registered version with its queue; None if it is not registered."""
        if not is_version(version):
            return None
        response = self._send("management", "GET", f"/models/{MODEL}/{version}")
        if response.status_code == HTTPStatus.NOT_FOUND:
            return None
        [entry] = _checked(response).json()
        return _with_default(_version(entry), entry["modelVersion"] == self._default())

    def _default(self) -> str:
        response = _checked(self._send("management", "GET", f"/models/{MODEL}"))
        return str(response.json()[0]["modelVersion"])

    def register(self, archive: str, workers: int) -> None:
        """Register an archive of the model store; returns once its workers are ready."""
        query = {"url": archive, "initial_workers": workers, "synchronous": "true"}
        _checked(self._send("management", "POST", "/models", query, _LOAD_TIMEOUT_S))

    def scale(self, version: str, workers: int) -> None:
        """Give a version so many workers; returns once they are ready."""
        query = {"min_worker": workers, "max_worker": workers, "synchronous": "true"}
        path = f"/models/{MODEL}/{version}"
        _checked(self._send("management", "PUT", path, query, _LOAD_TIMEOUT_S))

    def set_default(self, version: str) -> None:
        """Have a version answer the requests that name none."""
        _checked(self._send("management", "PUT", f"/models/{MODEL}/{version}/set-default"))

    def unregister(self, version: str) -> None:
        """Remove a version, which drops what it has not answered; its archive stays."""
        response = self._send("management", "DELETE", f"/models/{MODEL}/{version}")
        if response.status_code != HTTPStatus.NOT_FOUND:
            _checked(response)

    def pass_through_queue(self, version: str) -> None:
        """Return once a worker has answered something that entered the version's queue just now."""
        path = f"/models/{MODEL}/{version}"
        _checked(self._patiently("management", "GET", path, {"customized": "true"}))

    def predict(self, version: str, photo: bytes) -> tuple[int, Mapping[str, Any]]:
        """Ask a version about a photo.

        Returns:
            HTTP status and JSON body: 200 with an answer, or 4xx with why there is none.
        """
        path = f"/predictions/{MODEL}/{version}"
        response = self._patiently("inference", "POST", path, data=photo)
        if response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            _checked(response)
        try:
            return response.status_code, response.json()
        except ValueError:  # its own 413, for a photo over max_request_size, has no content
            return response.status_code, {}

    def _patiently(
        self,
        kind: _Kind,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        data: bytes | None = None,
    ) -> requests.Response:
        deadline = time.monotonic() + _BUSY_PATIENCE_S
        while True:
            response = self._send(kind, method, path, query, data=data)
            if (
                response.status_code != HTTPStatus.SERVICE_UNAVAILABLE
                or time.monotonic() > deadline
            ):
                return response
            time.sleep(_BUSY_PAUSE_S)

    def _send(
        self,
        kind: _Kind,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        timeout: float = _ANSWER_TIMEOUT_S,
        data: bytes | None = None,
    ) -> requests.Response:
        url = (self._inference if kind == "inference" else self._management) + path
        response = self._request(kind, method, url, query, timeout, data)
        if _is_key_refused(response):
            renewal = f"{self._management}/token"
            self._request("API", "GET", renewal, {"type": kind}, timeout, None)
            response = self._request(kind, method, url, query, timeout, data)
        return response

    def _request(
        self,
        key: str,
        method: str,
        url: str,
        query: Mapping[str, Any] | None,
        timeout: float,
        data: bytes | None,
    ) -> requests.Response:
        headers = {"Authorization": f"Bearer {self._key(key)}"}
        if data is not None:
            headers["Content-Type"] = "application/octet-stream"
        # A connection of its own each time, from threads too: TorchServe closes them after errors.
        with requests.Session() as session:
            session.trust_env = False  # a proxy would only get the keys to see
            try:
                return session.request(
                    method,
                    url,
                    params=query,
                    data=data,
                    headers=headers,
                    timeout=(_CONNECT_TIMEOUT_S, timeout),
                )
            except requests.RequestException as error:
                raise TorchServeError(
                    f"TorchServe does not answer at {url} ({type(error).__name__}): is the service "
                    "running, and are --run-dir and --management-url its own?"
                ) from error

    def _key(self, kind: str) -> str:
        try:
            return str(json.loads(self._key_file.read_text("utf-8"))[kind]["key"])
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise TorchServeError(
                f"can't read TorchServe's keys in {self._key_file}: start the service "
                "(`make serve`), or name its run directory (--run-dir, CARID_RUN_DIR)"
            ) from error


def _version(entry: Mapping[str, Any]) -> Version:
    workers = entry["workers"]
    return Version(
        version=entry["modelVersion"],
        archive=entry["modelUrl"],
        default=False,
        workers=len(workers),
        ready=sum(worker["status"] == "READY" for worker in workers),
        response_timeout=entry["responseTimeout"],
        waiting=entry["jobQueueStatus"]["pendingRequests"],
    )


def _with_default(version: Version, default: bool) -> Version:
    return replace(version, default=default)


def _is_key_refused(response: requests.Response) -> bool:
    return (
        response.status_code == HTTPStatus.BAD_REQUEST
        and b'"InvalidKeyException"' in response.content
    )


def _checked(response: requests.Response) -> requests.Response:
    if response.ok:
        return response
    try:
        reason = str(response.json()["message"])
    except (ValueError, LookupError, TypeError):
        reason = response.reason or "no reason given"
    raise TorchServeError(f"TorchServe says: {reason} (HTTP {response.status_code})")
