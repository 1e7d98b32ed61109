"""What the launcher and the health check ask of TorchServe's management."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODEL_NAME = "car_identifier"
_TIMEOUT_S = 5.0


class NoAnswerError(Exception):
    """Nobody answers, or not with what was asked for; the message says what came instead."""


@dataclass(frozen=True)
class Served:
    """A registered version: its number, its file in the model store, and its workers."""

    version: str
    archive: str
    workers: int
    ready: int


def open_url(url: str, timeout: float = _TIMEOUT_S, **headers: str) -> bytes:
    """GET an address of this machine; a proxy set for the internet has no part in that.

    Raises:
        NoAnswerError: it can't be reached, is too slow, or answers with another status than 200.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=timeout) as answer:  # noqa: S310 - our own address
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            raise NoAnswerError(_reason(error)) from error
    except (urllib.error.URLError, OSError) as error:
        raise NoAnswerError(str(getattr(error, "reason", error))) from error
    except http.client.HTTPException as error:  # not HTTP, or cut off: whoever answers is ending
        raise NoAnswerError(f"no whole answer: {error!r}") from error


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        body = json.loads(error.read())
        return f"{error.code}: {body.get('error', body)['message']}"
    except (
        OSError, http.client.HTTPException, ValueError, LookupError, TypeError, AttributeError,
    ):  # fmt: skip
        return f"{error.code} {error.reason}"


def default_version(management_url: str, key_file: Path) -> Served:
    """The version that answers requests which name none.

    Raises:
        NoAnswerError: TorchServe does not say.
    """
    return _served(management_url, key_file, f"/models/{MODEL_NAME}")[0]


def served_versions(management_url: str, key_file: Path) -> list[Served]:
    """All registered versions, the default one first.

    Raises:
        NoAnswerError: TorchServe does not say.
    """
    default = default_version(management_url, key_file)
    versions = _served(management_url, key_file, f"/models/{MODEL_NAME}/all")
    return sorted(versions, key=lambda it: (it.version != default.version, it.version))


def _served(management_url: str, key_file: Path, path: str) -> list[Served]:
    try:
        key = json.loads(key_file.read_text("utf-8"))["management"]["key"]
        answer = open_url(management_url + path, Authorization=f"Bearer {key}")
        return [_parsed(entry) for entry in json.loads(answer)] or _none()
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise NoAnswerError(f"TorchServe's keys or answer can't be read: {error!r}") from error


def _parsed(entry: dict[str, Any]) -> Served:
    workers = entry["workers"]
    return Served(
        version=str(entry["modelVersion"]),
        archive=str(entry["modelUrl"]),
        workers=len(workers),
        ready=sum(worker["status"] == "READY" for worker in workers),
    )


def _none() -> list[Served]:
    raise NoAnswerError("TorchServe has no version")
