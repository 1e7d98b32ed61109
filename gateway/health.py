"""Is the gateway alive, and would a photo sent now be answered?"""

from __future__ import annotations

import asyncio
import struct
import time
import zlib
from typing import Annotated

from fastapi import APIRouter, Depends, Request

from gateway import schemas
from gateway.drain import Drain
from gateway.errors import GatewayError, NotReadyError, error_responses
from gateway.options import IdentifyOptions
from gateway.upstream import TorchServe

__all__ = ["ReadinessProbe", "probe_photo", "router"]

# A failed probe is not repeated for this long, whatever the number of balancers that ask.
_FAILURE_TTL_S = 1.0
_PROBE_TIMEOUT_S = 5.0


class ReadinessProbe:
    """Knows whether a worker has answered a photo within the last seconds.

    Real traffic is proof enough: only an idle gateway sends a photo of its own, so asking often is
    cheap, and a server that is busy answering is not taken for dead because its queue is full.
    """

    def __init__(self, upstream: TorchServe, ready_ttl_s: float, drain: Drain) -> None:
        self._upstream = upstream
        self._ttl = ready_ttl_s
        self._drain = drain
        self._photo = probe_photo()
        self._lock = asyncio.Lock()
        self._failure = NotReadyError("The model was not asked yet.")
        self._failed_at = float("-inf")

    async def check(self) -> None:
        """Return if the server is ready.

        Raises:
            NotReadyError: it is not; the message says why.
        """
        if self._drain.is_on:
            raise NotReadyError("This server is stopping. Ask another one, or this one later.")
        if self._answered_recently():
            return
        async with self._lock:
            if self._answered_recently():
                return
            if time.monotonic() - self._failed_at < _FAILURE_TTL_S:
                raise self._failure
            try:
                async with asyncio.timeout(_PROBE_TIMEOUT_S):
                    await self._probe()
            except TimeoutError:
                self._failure = NotReadyError("The model takes too long to answer.")
            except NotReadyError as error:
                self._failure = error
            except GatewayError as error:
                self._failure = NotReadyError(error.message)
            else:
                return
            self._failed_at = time.monotonic()
            raise self._failure

    def _answered_recently(self) -> bool:
        return time.monotonic() - self._upstream.last_answer_at < self._ttl

    async def _probe(self) -> None:
        model = await self._upstream.describe()
        if not model.ready_workers:
            raise NotReadyError("The model has no worker that is ready. It may still be loading.")
        await self._upstream.identify(self._photo, IdentifyOptions(top_k=1), "readiness-probe")


def probe_photo(side: int = 256) -> bytes:
    """A grey gradient as PNG, `side` by `side` pixels: a photo that needs no file and no Pillow."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)  # 8 bits, greyscale
    unfiltered_row = b"\0" + bytes(column * 255 // (side - 1) for column in range(side))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(unfiltered_row * side))
        + chunk(b"IEND", b"")
    )


def _probe(request: Request) -> ReadinessProbe:
    probe: ReadinessProbe = request.app.state.readiness
    return probe


router = APIRouter(tags=["health"])


@router.get("/healthz", summary="Is the gateway alive?")
async def healthz() -> schemas.Health:
    """200 as long as the gateway runs, whatever becomes of the model behind it."""
    return schemas.Health()


@router.get(
    "/readyz",
    summary="Would a photo be answered now?",
    responses=error_responses(NotReadyError("The model has no worker that is ready.")),
)
async def readyz(probe: Annotated[ReadinessProbe, Depends(_probe)]) -> schemas.Readiness:
    """200 if a worker has answered a photo within the last seconds, a probe's if need be."""
    await probe.check()
    return schemas.Readiness()
