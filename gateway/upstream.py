"""TorchServe, seen from the gateway: the one module that knows how its inference side behaves.

What this hides (all of it observed on TorchServe 0.12):

- Query strings of predictions are dropped and of repeated form fields the last one wins: each photo
  is a request of its own. It travels as the body itself and its options as headers, since reading
  a form takes TorchServe 35 ms for a photo of 2 MB.
- Keys are short-lived, live in a file that TorchServe rewrites, and a wrong or expired one is
  answered with 400 `InvalidKeyException`, not 401. A new one is asked for with the API key; the
  answer is empty and the key is in the file. Asking makes the old key worthless at once.
- A crashed worker and one that exceeded its `responseTimeout` both read 500 "Worker died."; while
  it restarts, requests wait. A full queue and no worker at all read the same 503.
- A body over `max_request_size` gets a 413 without content.
- What a handler says of itself loses its nulls on the way through the management API.
- `/ping` says "Healthy" with no worker; the management API's description of the model does not.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal

import httpx
from pydantic import BaseModel, ValidationError

from gateway.errors import (
    AnswerTimeoutError,
    GatewayError,
    ImageTooLargeError,
    InternalError,
    ModelUnavailableError,
    PhotoRefusedError,
    ServerBusyError,
)
from gateway.schemas import Answer, ErrorDetail, LabelTable
from gateway.settings import Settings

__all__ = ["ModelDescription", "TorchServe"]

logger = logging.getLogger(__name__)

KeyKind = Literal["inference", "management"]

# A key this close to its end is renewed first: a photo would be uploaded twice otherwise.
_KEY_MARGIN = timedelta(seconds=10)
_UNAVAILABLE = "The model server is not available. Try again in a few seconds."
_BUSY = "The model has more photos waiting than it can take. Try again in a second."


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """The model as TorchServe describes it.

    Attributes:
        version: the default version, which answers.
        ready_workers: how many workers are loaded and waiting.
    """

    version: str
    ready_workers: int


class TorchServe:
    """One TorchServe and one model in it.

    Attributes:
        last_answer_at: `time.monotonic()` of the worker's last answer to a photo, be it that the
            photo is broken; minus infinity before the first.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._predictions = f"{settings.inference_url}/predictions/{settings.model_name}"
        self._model = f"{settings.management_url}/models/{settings.model_name}"
        # TorchServe is on loopback or a private network: a proxy from the environment would only
        # get its keys to see.
        self._http = httpx.AsyncClient(
            trust_env=False,
            limits=httpx.Limits(
                max_connections=None, max_keepalive_connections=settings.upstream_connections
            ),
            timeout=httpx.Timeout(settings.answer_timeout_s, connect=settings.connect_timeout_s),
        )
        # Not the pool's own limit: there a photo that waits can be overtaken, and its time to wait
        # begins again.
        self._turns = asyncio.Semaphore(settings.upstream_connections)
        self._keys = _Keys(settings, self._http)
        self.last_answer_at = float("-inf")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def identify(self, photo: bytes, *, top_k: int, request_id: str) -> Answer:
        """Have one photo answered.

        Raises:
            PhotoRefusedError: the worker can't answer this photo.
            GatewayError: the worker did not get to it.
        """
        async with self._turn():
            response = await self._send(
                "inference",
                "POST",
                self._predictions,
                content=photo,
                headers={
                    # Never the caller's own type: TorchServe makes something else of some.
                    "Content-Type": "application/octet-stream",
                    "top_k": str(top_k),
                    "request_id": request_id,
                },
            )
        if response.status_code != HTTPStatus.OK:
            error = _photo_error(response)
            if isinstance(error, PhotoRefusedError):
                self.last_answer_at = time.monotonic()
            raise error
        try:
            answer = Answer.model_validate_json(response.content)
        except ValidationError as error:
            logger.error("the worker's answer is none: %s", error)
            raise InternalError from error
        self.last_answer_at = time.monotonic()
        return answer

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Wait for a place at the worker, then hold it no longer than an answer may take."""
        try:
            async with asyncio.timeout(self._settings.queue_timeout_s):
                await self._turns.acquire()
        except TimeoutError as error:
            raise ServerBusyError(_BUSY) from error
        try:
            async with asyncio.timeout(self._settings.answer_timeout_s):
                yield
        except TimeoutError as error:
            raise _timeout() from error
        finally:
            self._turns.release()

    async def describe(self) -> ModelDescription:
        """Ask which version is served and by how many workers; costs the worker nothing.

        Raises:
            GatewayError: TorchServe does not answer, or does not know the model.
        """
        model = await self._describe({})
        try:
            ready = sum(worker["status"] == "READY" for worker in model["workers"])
            return ModelDescription(version=model["modelVersion"], ready_workers=ready)
        except (KeyError, TypeError) as error:
            raise _strange_description(error) from error

    async def labels(self) -> LabelTable:
        """Ask a worker of the served version for its label table; it waits in the photos' queue.

        Raises:
            GatewayError: no worker answers.
        """
        model = await self._describe({"customized": "true"})
        try:
            described = model["customizedMetadata"]
            labels = [{"body": None, **label} for label in described["labels"]]
            return LabelTable.model_validate({**described, "labels": labels})
        except (KeyError, TypeError, ValidationError) as error:
            raise _strange_description(error) from error

    async def _describe(self, query: dict[str, str]) -> dict[str, Any]:
        response = await self._send("management", "GET", self._model, params=query)
        if response.status_code != HTTPStatus.OK:
            raise _server_error(response)
        try:
            # A list with one entry: the default version.
            model = response.json()[0]
        except (ValueError, LookupError, TypeError) as error:
            raise _strange_description(error) from error
        if not isinstance(model, dict):
            raise _strange_description(TypeError(type(model).__name__))
        return model

    async def _send(self, kind: KeyKind, method: str, url: str, **content: Any) -> httpx.Response:
        """Send with a key that holds: with a new one where TorchServe refuses the one at hand."""
        key = await self._keys.get(kind)
        response = await _request(self._http, method, url, key, **content)
        if _is_key_refused(response):
            key = await self._keys.get(kind, refused=key)
            response = await _request(self._http, method, url, key, **content)
            if _is_key_refused(response):
                logger.error("TorchServe refuses the %s key that it has just written", kind)
                raise ModelUnavailableError(_UNAVAILABLE)
        return response


@dataclass(frozen=True, slots=True)
class _Key:
    value: str
    expires: datetime

    def is_fresh(self) -> bool:
        return datetime.now(UTC) + _KEY_MARGIN < self.expires


class _Keys:
    """TorchServe's keys, out of the file that it writes into its working directory.

    The file looks like this; the API key never expires and opens nothing but the renewal:

        {"management": {"key": "…", "expiration time": "2026-01-01T00:00:00.123456789Z"},
         "inference": {"key": "…", "expiration time": "…"},
         "API": {"key": "…"}}
    """

    def __init__(self, settings: Settings, http: httpx.AsyncClient) -> None:
        self._path: Path = settings.key_file
        self._renewal = f"{settings.management_url}/token"
        self._http = http
        self._known: dict[KeyKind, _Key] = {}
        self._lock = asyncio.Lock()

    async def get(self, kind: KeyKind, refused: str | None = None) -> str:
        """The key to use.

        Args:
            kind: which API it opens.
            refused: the key that TorchServe has just refused, if that is why one is needed.

        Raises:
            ModelUnavailableError: there is no key that TorchServe would take.
        """

        def is_usable(key: _Key | None) -> bool:
            return key is not None and key.value != refused and key.is_fresh()

        key = self._known.get(kind)
        if key is None or not is_usable(key):
            async with self._lock:
                # Someone else may have got a new key: another request, another gateway process,
                # or a TorchServe that was started again.
                key, api_key = await self._read(kind)
                if not is_usable(key):
                    await self._renew(kind, api_key)
                    key, _ = await self._read(kind)
        # A key that looks expired straight after its renewal is a clock that is off: try it.
        return key.value

    async def _renew(self, kind: KeyKind, api_key: str) -> None:
        response = await _request(self._http, "GET", self._renewal, api_key, params={"type": kind})
        if response.status_code == HTTPStatus.OK:
            logger.info("got a new %s key from TorchServe", kind)
        else:
            # The file is that of a TorchServe which is gone; a new one will write its own.
            logger.warning("TorchServe refuses the API key in %s", self._path)

    async def _read(self, kind: KeyKind) -> tuple[_Key, str]:
        for tries_left in reversed(range(10)):
            try:
                keys = json.loads(self._path.read_bytes())
                expires = datetime.fromisoformat(keys[kind]["expiration time"])
                key, api_key = _Key(str(keys[kind]["key"]), expires), str(keys["API"]["key"])
            except FileNotFoundError as error:
                logger.warning("there is no key file %s: is TorchServe running?", self._path)
                raise ModelUnavailableError(_UNAVAILABLE) from error
            except (OSError, ValueError, LookupError, TypeError) as error:
                if not tries_left:
                    logger.error("can't read the key file %s: %s", self._path, error)
                    raise ModelUnavailableError(_UNAVAILABLE) from error
                # TorchServe writes the file in place, so it may be half there.
                await asyncio.sleep(0.05)
            else:
                break
        self._known[kind] = key
        return key, api_key


async def _request(
    http: httpx.AsyncClient,
    method: str,
    url: str,
    key: str,
    headers: dict[str, str] | None = None,
    **content: Any,
) -> httpx.Response:
    """Send; what goes wrong on the way becomes an error of the contract."""
    try:
        return await http.request(
            method, url, headers={**(headers or {}), "Authorization": f"Bearer {key}"}, **content
        )
    except (httpx.ReadTimeout, httpx.WriteTimeout) as error:
        raise _timeout() from error
    except httpx.TransportError as error:
        logger.warning("TorchServe can't be reached at %s: %r", url, error)
        raise ModelUnavailableError(_UNAVAILABLE) from error


def _is_key_refused(response: httpx.Response) -> bool:
    return (
        response.status_code == HTTPStatus.BAD_REQUEST
        and b'"InvalidKeyException"' in response.content
    )


class _WorkerError(BaseModel):
    error: ErrorDetail


def _photo_error(response: httpx.Response) -> GatewayError:
    """What a prediction's status other than 200 means."""
    if response.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE and not response.content:
        # The operator's max_request_size is under the gateway's limit.
        logger.warning("TorchServe's max_request_size is smaller than the photos taken here")
        return ImageTooLargeError("The photo has too many bytes. Send it smaller.")
    try:
        body = _WorkerError.model_validate_json(response.content)
    except ValidationError:
        return _server_error(response)  # TorchServe's own words, not the worker's
    return PhotoRefusedError(response.status_code, body.error.code, body.error.message)


def _server_error(response: httpx.Response) -> GatewayError:
    """What a status of TorchServe itself means."""
    logger.warning("TorchServe answered %d: %s", response.status_code, response.text[:300])
    if response.status_code == HTTPStatus.SERVICE_UNAVAILABLE:
        return ServerBusyError(_BUSY)
    if b"Worker died" in response.content:
        return ModelUnavailableError(
            "The model stopped over a photo and is being started again. Try again in a few "
            "seconds; if it happens again with this photo, leave the photo out."
        )
    # Not registered (404), no memory (507), …: the operator's to mend, and the log's to tell.
    return ModelUnavailableError(_UNAVAILABLE)


def _timeout() -> GatewayError:
    logger.warning("TorchServe has not answered in time")
    return AnswerTimeoutError("The answer took too long. Try again later.")


def _strange_description(error: Exception) -> GatewayError:
    logger.error("TorchServe's description of the model is not as expected: %s", error)
    return InternalError()
