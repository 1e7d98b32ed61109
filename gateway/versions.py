"""How TorchServe's versions and workers are, out of what its management says of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

__all__ = ["VersionState", "WorkerState", "state_of"]


@dataclass(frozen=True, slots=True)
class WorkerState:
    """One worker, for the metrics.

    Attributes:
        id: TorchServe's name for it.
        ready: whether it is loaded and takes photos.
        started_at: when TorchServe first started it, in seconds since 1970.
        pid: its process; None while there is none.
        memory_bytes: what that holds; 0 if TorchServe has not looked yet.
    """

    id: str
    ready: bool
    started_at: float
    pid: int | None
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class VersionState:
    """One version that is served, for the metrics.

    Attributes:
        version: its name.
        default: whether it gets the photos that name no version.
        queued: photos that wait for its workers.
        queue_capacity: how many may.
        workers: all it has, ready or not.
    """

    version: str
    default: bool
    queued: int
    queue_capacity: int
    workers: tuple[WorkerState, ...]


def state_of(model: Mapping[str, Any], default: str) -> VersionState:
    """Read TorchServe's description of a version.

    Args:
        model: one entry of what management answers.
        default: the name of the default version.

    Raises:
        KeyError: something is missing in it.
        TypeError: something is of another kind than expected.
        ValueError: a start time is none.
    """
    queue = model["jobQueueStatus"]
    return VersionState(
        version=model["modelVersion"],
        default=model["modelVersion"] == default,
        queued=queue["pendingRequests"],
        queue_capacity=queue["remainingCapacity"] + queue["pendingRequests"],
        workers=tuple(
            WorkerState(
                id=worker["id"],
                ready=worker["status"] == "READY",
                started_at=datetime.fromisoformat(worker["startTime"]).timestamp(),
                pid=worker["pid"] if worker["pid"] > 0 else None,
                memory_bytes=worker["memoryUsage"],
            )
            for worker in model["workers"]
        ),
    )
