"""A new version on trial: it gets a share of the traffic, and its answers are compared.

A file says which version and what share; a command or an operator writes it, and it counts from the
next request on:

    {"version": "1.2", "share": 0.1}

A canary never costs a user an answer: where it has none, or none in time, the default version
answers.
"""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.errors import GatewayError, ServerBusyError
from gateway.options import VERSION_PATTERN, IdentifyOptions
from gateway.schemas import Answer
from gateway.settings import Settings
from gateway.uploads import UploadMemory
from gateway.upstream import TorchServe

__all__ = ["Canary", "Trial"]

logger = logging.getLogger(__name__)


class _Assignment(BaseModel):
    """What the file says."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: str = Field(pattern=VERSION_PATTERN)
    share: float = Field(ge=0, le=1)


@dataclass(slots=True)
class Trial:
    """One version's trial, as far as this gateway has seen it.

    Attributes:
        version: the canary.
        share: of the requests that ask for no version, 0…1.
        compared: photos that the canary and, afterwards, the default version answered.
        agreed: of these, those with the same class and verdict.
        failed: photos that the canary could not answer, so that the default version did.
    """

    version: str
    share: float
    compared: int = 0
    agreed: int = 0
    failed: int = 0


class Canary:
    """Draws the requests that a canary gets, has it answer, and compares.

    Args:
        upstream: where the versions are.
        memory: pays for the photos that comparisons hold.
        settings: the file, and how long a canary may take.
    """

    def __init__(self, upstream: TorchServe, memory: UploadMemory, settings: Settings) -> None:
        self._upstream = upstream
        self._memory = memory
        self._path: Path = settings.canary_file
        self._timeout = settings.canary_timeout_s
        self._seen: tuple[int, ...] | None = None
        self._trial: Trial | None = None
        self._random = random.Random()  # noqa: S311 - nothing to guess
        self._comparisons: set[asyncio.Task[None]] = set()

    @property
    def trial(self) -> Trial | None:
        """The trial that the file asks for; None without one."""
        try:
            stat = self._path.stat()
            seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        except OSError:
            seen = None
        if seen != self._seen:
            self._seen = seen
            self._follow(None if seen is None else self._read())
        return self._trial

    @property
    def compared(self) -> int:
        """As the `Trial` says; 0 without one."""
        return self._trial.compared if self._trial else 0

    @property
    def agreed(self) -> int:
        """As the `Trial` says; 0 without one."""
        return self._trial.agreed if self._trial else 0

    @property
    def failed(self) -> int:
        """As the `Trial` says; 0 without one."""
        return self._trial.failed if self._trial else 0

    def draw(self) -> Trial | None:
        """For a request that asks for no version: the trial that it becomes part of, if it does."""
        trial = self.trial
        return trial if trial and self._random.random() < trial.share else None

    async def identify(
        self, trial: Trial, photo: bytes, options: IdentifyOptions, request_id: str
    ) -> Answer:
        """Have the canary answer a photo, or else the default version.

        Raises:
            GatewayError: the default version has no answer either.
        """
        asked = options.model_copy(update={"version": trial.version})
        try:
            async with asyncio.timeout(self._timeout):
                answer = await self._upstream.identify(photo, asked, request_id)
        except (GatewayError, TimeoutError) as error:
            # Also where it refuses the photo: that may be its own fault.
            answer = await self._upstream.identify(photo, options, request_id)
            trial.failed += 1
            logger.warning("the canary %s did not answer: %r", trial.version, error)
            return answer
        if not self._upstream.is_busy:
            comparison = asyncio.create_task(
                self._compare(trial, answer, photo, options, request_id)
            )
            self._comparisons.add(comparison)
            comparison.add_done_callback(self._comparisons.discard)
        return answer

    async def aclose(self) -> None:
        """Give up the comparisons that are under way."""
        for comparison in self._comparisons:
            comparison.cancel()
        await asyncio.gather(*self._comparisons, return_exceptions=True)

    async def _compare(
        self, trial: Trial, canary: Answer, photo: bytes, options: IdentifyOptions, request_id: str
    ) -> None:
        """Ask the default version too, when nobody waits for it any more."""
        wanted = options.model_copy(update={"top_k": 1, "explain": False})
        try:
            with self._memory.lease() as lease:
                lease.take(len(photo))
                default = await self._upstream.identify(photo, wanted, f"{request_id}-canary")
        except ServerBusyError:
            return
        except GatewayError as error:
            logger.warning("the default version did not answer the canary's photo: %r", error)
            return
        if default.model_version == canary.model_version:
            return  # the canary has become the default
        trial.compared += 1
        trial.agreed += (default.class_id, default.verdict) == (canary.class_id, canary.verdict)

    def _read(self) -> _Assignment | None:
        try:
            return _Assignment.model_validate_json(self._path.read_bytes())
        except (OSError, ValidationError) as error:
            logger.error("there is no canary, since %s can't be read: %s", self._path, error)
            return None

    def _follow(self, assignment: _Assignment | None) -> None:
        if assignment is None:
            self._trial = None
        elif self._trial and self._trial.version == assignment.version:
            self._trial.share = assignment.share
        else:
            self._trial = Trial(assignment.version, assignment.share)
