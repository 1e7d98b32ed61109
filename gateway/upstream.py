"""TorchServe, seen from the gateway: the one module that knows how its inference side behaves.

What this hides (all of it observed on TorchServe 0.12):

- Query strings of predictions are dropped and of repeated form fields the last one wins: each photo
  is a request of its own. It travels as the body itself and its options as headers, since reading
  a form takes TorchServe 35 ms for a photo of 2 MB.
- A wrong or expired key is answered with 400 `InvalidKeyException`, not 401. Where keys come from
  is tokens.py's.
- A header `explain` is overwritten: whether to explain is told by the path, `/explanations`.
- A version is a part of the path. One that is not served is 404 `ModelVersionNotFoundException`, no
  model at all 404 `ModelNotFoundException`; whether its workers are loaded shows in neither.
- `/all` lists a model's versions and doesn't say which is the default: the path without it does.
- A crashed worker and one that exceeded its `responseTimeout` both read 500 "Worker died."; while
  it restarts, requests wait. A full queue and no worker at all read the same 503.
- A body over `max_request_size` gets a 413 without content.
- A worker whose process died keeps its id and its start time: its pid is another one.
- What a handler says of itself loses its nulls on the way through the management API.
- `/ping` says "Healthy" with no worker; the management API's description of the model does not.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

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
    UnknownVersionError,
)
from gateway.options import IdentifyOptions
from gateway.schemas import Answer, ErrorDetail, LabelTable
from gateway.settings import Settings
from gateway.tokens import KeyKind, Tokens
from gateway.versions import VersionState, state_of

__all__ = ["ModelDescription", "TorchServe"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """A version of the model as TorchServe describes it.

    Attributes:
        version: its name.
        ready_workers: how many workers are loaded and waiting.
        workers: how many there are.
    """

    version: str
    ready_workers: int
    workers: int


class TorchServe:
    """One TorchServe and one model in it.

    Args:
        settings: where it is, and how much it gets to do.
        note_wait: is told of each photo how many seconds it waited for its turn, in vain or not.

    Attributes:
        last_answer_at: `time.monotonic()` of the default version's last answer to a photo, be it
            that the photo is broken; minus infinity before the first.
    """

    def __init__(
        self, settings: Settings, note_wait: Callable[[float], None] = lambda _: None
    ) -> None:
        self._settings = settings
        self._note_wait = note_wait
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
        self._under_way = 0
        self._waiting = 0
        self._tokens = Tokens(settings.key_file, self._renew)
        self.last_answer_at = float("-inf")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    @property
    def is_busy(self) -> bool:
        """Whether more photos are under way than the worker takes at once."""
        return self._under_way >= self._settings.photos_in_flight

    @property
    def under_way(self) -> int:
        """Photos that are at TorchServe now."""
        return self._under_way

    @property
    def waiting(self) -> int:
        """Photos that wait here for their turn."""
        return self._waiting

    async def identify(self, photo: bytes, options: IdentifyOptions, request_id: str) -> Answer:
        """Have one photo answered, by the default version if the options name none.

        Raises:
            PhotoRefusedError: the worker can't answer this photo.
            UnknownVersionError: the version is not served.
            GatewayError: the worker did not get to it.
        """
        version = options.version
        kind = "explanations" if options.explain else "predictions"
        url = f"{self._settings.inference_url}/{kind}/{self._settings.model_name}"
        async with self._turn():
            response = await self._send(
                "inference",
                "POST",
                url if version is None else f"{url}/{version}",
                content=photo,
                headers={
                    # Never the caller's own type: TorchServe makes something else of some.
                    "Content-Type": "application/octet-stream",
                    "top_k": str(options.top_k),
                    "request_id": request_id,
                    **({"box": options.box} if options.box else {}),
                },
            )
        if response.status_code != HTTPStatus.OK:
            error = _photo_error(response, version)
            if isinstance(error, PhotoRefusedError):
                self._note_answer(version)
            raise error
        try:
            answer = Answer.model_validate_json(response.content)
        except ValidationError as error:
            logger.error("the worker's answer is none: %s", error)
            raise InternalError from error
        self._note_answer(version)
        return answer

    def _note_answer(self, version: str | None) -> None:
        # Another version's answer says nothing of the one that most requests get.
        if version is None:
            self.last_answer_at = time.monotonic()

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Wait for a place at the worker, then hold it no longer than an answer may take."""
        came = time.monotonic()
        self._waiting += 1
        try:
            async with asyncio.timeout(self._settings.queue_timeout_s):
                await self._turns.acquire()
        except TimeoutError as error:
            raise ServerBusyError from error
        finally:
            self._waiting -= 1
            self._note_wait(time.monotonic() - came)
        self._under_way += 1
        try:
            async with asyncio.timeout(self._settings.answer_timeout_s):
                yield
        except TimeoutError as error:
            raise _timeout() from error
        finally:
            self._under_way -= 1
            self._turns.release()

    async def describe(self) -> ModelDescription:
        """Ask which version is the default and by how many workers; costs the worker nothing.

        Raises:
            GatewayError: TorchServe does not answer, or does not know the model.
        """
        return (await self._describe(self._model))[0]

    async def versions(self) -> list[ModelDescription]:
        """Ask which versions are served, the default one first; costs the workers nothing.

        Raises:
            GatewayError: TorchServe does not answer, or does not know the model.
        """
        default = await self.describe()
        models = await self._describe(f"{self._model}/all")
        return [default, *(model for model in models if model.version != default.version)]

    async def states(self) -> list[VersionState]:
        """Ask how all versions and their workers are; costs the workers nothing.

        Raises:
            GatewayError: TorchServe does not answer, or does not know the model.
        """
        default = (await self._models(self._model))[0]
        models = await self._models(f"{self._model}/all")
        try:
            return [state_of(model, default["modelVersion"]) for model in models]
        except (KeyError, TypeError, ValueError) as error:
            raise _strange_description(error) from error

    async def metrics(self) -> str:
        """What the metrics port shows, in Prometheus' text format; it asks for no key.

        Raises:
            GatewayError: there is no answer.
        """
        url = f"{self._settings.metrics_url}/metrics"
        # Never with a token: that port would not look at it, and need not see it.
        try:
            response = await self._http.get(url)
        except httpx.HTTPError as error:
            raise ModelUnavailableError from error
        if response.status_code != HTTPStatus.OK:
            raise _server_error(response)
        return response.text

    async def labels(self) -> LabelTable:
        """Ask a worker of the served version for its label table; it waits in the photos' queue.

        Raises:
            GatewayError: no worker answers.
        """
        try:
            described = (await self._models(self._model, customized="true"))[0][
                "customizedMetadata"
            ]
            labels = [{"body": None, **label} for label in described["labels"]]
            return LabelTable.model_validate({**described, "labels": labels})
        except (KeyError, TypeError, ValidationError) as error:
            raise _strange_description(error) from error

    async def _describe(self, url: str) -> list[ModelDescription]:
        try:
            return [
                ModelDescription(
                    version=model["modelVersion"],
                    ready_workers=sum(worker["status"] == "READY" for worker in model["workers"]),
                    workers=len(model["workers"]),
                )
                for model in await self._models(url)
            ]
        except (KeyError, TypeError) as error:
            raise _strange_description(error) from error

    async def _models(self, url: str, **query: str) -> list[dict[str, Any]]:
        """What TorchServe says of the versions at this address, at least one."""
        response = await self._send("management", "GET", url, params=query)
        if response.status_code != HTTPStatus.OK:
            raise _server_error(response)
        try:
            models = response.json()
        except ValueError as error:
            raise _strange_description(error) from error
        if not isinstance(models, list) or not models:
            raise _strange_description(TypeError(f"a list expected, not {models!r:.100}"))
        return models

    async def _renew(self, kind: KeyKind, api_key: str) -> bool:
        url = f"{self._settings.management_url}/token"
        response = await _request(self._http, "GET", url, api_key, params={"type": kind})
        return response.status_code == HTTPStatus.OK

    async def _send(self, kind: KeyKind, method: str, url: str, **content: Any) -> httpx.Response:
        """Send with a key that holds: with a new one where TorchServe refuses the one at hand."""
        key = await self._tokens.get(kind)
        response = await _request(self._http, method, url, key, **content)
        if _is_key_refused(response):
            key = await self._tokens.get(kind, refused=key)
            response = await _request(self._http, method, url, key, **content)
            if _is_key_refused(response):
                logger.error("TorchServe refuses the %s key that it has just written", kind)
                raise ModelUnavailableError
        return response


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
        raise ModelUnavailableError from error


def _is_key_refused(response: httpx.Response) -> bool:
    return (
        response.status_code == HTTPStatus.BAD_REQUEST
        and b'"InvalidKeyException"' in response.content
    )


class _WorkerError(BaseModel):
    error: ErrorDetail


def _photo_error(response: httpx.Response, version: str | None) -> GatewayError:
    """What a prediction's status other than 200 means."""
    if version is not None and b'"ModelVersionNotFoundException"' in response.content:
        return UnknownVersionError(version)
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
        return ServerBusyError()
    if b"Worker died" in response.content:
        return ModelUnavailableError(
            "The model stopped over a photo and is being started again. Try again in a few "
            "seconds; if it happens again with this photo, leave the photo out."
        )
    # Not registered (404), no memory (507), …: the operator's to mend, and the log's to tell.
    return ModelUnavailableError()


def _timeout() -> GatewayError:
    logger.warning("TorchServe has not answered in time")
    return AnswerTimeoutError()


def _strange_description(error: Exception) -> GatewayError:
    logger.error("TorchServe's description of the model is not as expected: %s", error)
    return InternalError()
