"""What the served version can tell apart."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

from fastapi import APIRouter, Depends, Request

from gateway import schemas
from gateway.errors import ModelUnavailableError, ServerBusyError, error_responses
from gateway.upstream import TorchServe

__all__ = ["LabelCache", "router"]


class LabelCache:
    """Keeps the label table of the served version.

    Asking a worker for its labels takes a place in the photos' queue. Asking TorchServe which
    version it serves does not, and a version's labels never change.
    """

    def __init__(self, upstream: TorchServe, ttl_s: float) -> None:
        self._upstream = upstream
        self._ttl = ttl_s
        self._lock = asyncio.Lock()
        self._table: schemas.LabelTable | None = None
        self._checked_at = float("-inf")

    async def get(self) -> schemas.LabelTable:
        """The served version's labels, at most `ttl_s` old.

        Raises:
            GatewayError: the model does not answer.
        """
        async with self._lock:
            if self._table and time.monotonic() - self._checked_at < self._ttl:
                return self._table
            if not self._table or self._table.model_version != await self._served_version():
                self._table = await self._upstream.labels()
            self._checked_at = time.monotonic()
            return self._table

    async def _served_version(self) -> str:
        return (await self._upstream.describe()).version


def _cache(request: Request) -> LabelCache:
    cache: LabelCache = request.app.state.labels
    return cache


router = APIRouter(tags=["identify"])


@router.get(
    "/v1/labels",
    summary="All car models that can be told apart",
    responses=error_responses(ModelUnavailableError(), ServerBusyError()),
)
async def labels(cache: Annotated[LabelCache, Depends(_cache)]) -> schemas.LabelTable:
    """The label table of the served version, in `class_id` order."""
    return await cache.get()
