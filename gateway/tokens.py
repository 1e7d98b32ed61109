"""TorchServe's keys, out of the file that it writes into its working directory.

They are short-lived and TorchServe rewrites the file; asking for a new one makes the old one
worthless at once, the answer is empty and the new key is in the file. It looks like this; the API
key never expires and opens nothing but the renewal:

    {"management": {"key": "…", "expiration time": "2026-01-01T00:00:00.123456789Z"},
     "inference": {"key": "…", "expiration time": "…"},
     "API": {"key": "…"}}
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from gateway.errors import ModelUnavailableError

__all__ = ["KeyKind", "Tokens"]

logger = logging.getLogger(__name__)

KeyKind = Literal["inference", "management"]

# A key this close to its end is renewed first: a photo would be uploaded twice otherwise.
_MARGIN = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class _Key:
    value: str
    expires: datetime

    def is_fresh(self) -> bool:
        return datetime.now(UTC) + _MARGIN < self.expires


class Tokens:
    """Knows the key to use, and has it renewed in time.

    Args:
        path: the key file.
        renew: asks TorchServe for a new key of a kind, opened by the API key; returns whether it
            was granted.
    """

    def __init__(self, path: Path, renew: Callable[[KeyKind, str], Awaitable[bool]]) -> None:
        self._path = path
        self._renew = renew
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
                    if await self._renew(kind, api_key):
                        logger.info("got a new %s key from TorchServe", kind)
                    else:
                        # The file is that of a TorchServe which is gone; a new one writes its own.
                        logger.warning("TorchServe refuses the API key in %s", self._path)
                    key, _ = await self._read(kind)
        # A key that looks expired straight after its renewal is a clock that is off: try it.
        return key.value

    async def _read(self, kind: KeyKind) -> tuple[_Key, str]:
        for tries_left in reversed(range(10)):
            try:
                keys = json.loads(self._path.read_bytes())
                expires = datetime.fromisoformat(keys[kind]["expiration time"])
                key, api_key = _Key(str(keys[kind]["key"]), expires), str(keys["API"]["key"])
            except FileNotFoundError as error:
                logger.warning("there is no key file %s: is TorchServe running?", self._path)
                raise ModelUnavailableError from error
            except (OSError, ValueError, LookupError, TypeError) as error:
                if not tries_left:
                    logger.error("can't read the key file %s: %s", self._path, error)
                    raise ModelUnavailableError from error
                # TorchServe writes the file in place, so it may be half there.
                await asyncio.sleep(0.05)
            else:
                break
        self._known[kind] = key
        return key, api_key
