"""TorchServe's share of `GET /metrics`: what its metrics port shows, and the state of its workers.

One address to scrape is enough this way, and TorchServe's port stays on loopback. A TorchServe that
is gone or slow costs the scrape its own figures and two seconds, nothing else.

What its port shows is passed on as it is, with two exceptions. Its help texts say nothing, so the
gateway's take their place. And a line that is not valid, or a family that is there already, is left
out: Prometheus would refuse the whole answer over it.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from gateway.errors import GatewayError
from gateway.upstream import TorchServe
from gateway.versions import VersionState

__all__ = ["TorchServeMetrics", "TorchServeSeen", "valid_lines"]

logger = logging.getLogger(__name__)

# Prometheus gives a scrape ten seconds by default; an operator may give it fewer.
_PATIENCE_S = 2.0
_NAMESPACE = "carid_gateway"

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\[\\"n])*"'
_NUMBER = r"[+-]?(?:\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|Inf|NaN)"
_SAMPLE = re.compile(rf"({_NAME})(?:\{{(?:{_LABEL}(?:,{_LABEL})*,?)?\}})? {_NUMBER}")
_COMMENT = re.compile(rf"# (HELP|TYPE) ({_NAME}) (.+)")
# What a histogram or a summary adds to its name in its samples.
_SUFFIX = re.compile(r"_(?:bucket|count|sum)$")

_LAST = "Of the last batch only, in milliseconds: look at the histograms instead."
_MINUTE = "looked at once a minute."
_HELP = {
    "Requests2XX": "TorchServe's answers with a status of 200 to 299, management included.",
    "Requests4XX": "TorchServe's answers with a status of 400 to 499, management included.",
    "Requests5XX": "TorchServe's answers with a status of 500 to 599, management included.",
    "ts_inference_requests_total": "Photos that a worker has taken, the gateway's probes included.",
    "ts_inference_latency_microseconds": "Microseconds from a photo's coming to TorchServe until "
    "its answer, summed over all.",
    "ts_queue_latency_microseconds": "Microseconds that photos waited in TorchServe's queue, "
    "summed over all.",
    "QueueTime": _LAST,
    "WorkerThreadTime": _LAST,
    "PredictionTime": _LAST,
    "WorkerLoadTime": "Milliseconds from TorchServe's wish for this worker until its last process "
    "was ready.",
    "CPUUtilization": f"Percent of the machine's CPU time; {_MINUTE}",
    "MemoryUsed": f"The machine's memory in use, in megabytes; {_MINUTE}",
    "MemoryAvailable": f"The machine's memory to be had, in megabytes; {_MINUTE}",
    "MemoryUtilization": f"Percent of the machine's memory in use; {_MINUTE}",
    "DiskUsage": f"Gigabytes in use where the root folder is; {_MINUTE}",
    "DiskUtilization": f"Percent in use where the root folder is; {_MINUTE}",
    "DiskAvailable": f"Gigabytes to be had where the root folder is; {_MINUTE}",
    "GPUMemoryUtilization": f"Percent of the GPU's memory in use; {_MINUTE}",
    "GPUMemoryUsed": f"The GPU's memory in use, in megabytes; {_MINUTE}",
    "GPUUtilization": f"Percent of the GPU's time; {_MINUTE}",
    "car_identifier_answers_total": "Photos the worker answered, by verdict and by what it looked "
    "at, the gateway's probes and comparisons included.",
    "car_identifier_errors_total": "Photos the worker could not answer, by the code of the error.",
    "car_identifier_confidence": "The first guess's confidence, 0 to 1, whatever the verdict.",
    "car_identifier_stage_seconds": "The worker's time for a photo, by stage, in seconds.",
    "car_identifier_batch_size": "Photos that the worker answered together.",
}

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class TorchServeSeen(Collector):
    """What was to be had of TorchServe at one moment.

    Attributes:
        lines: of its metrics port, without line ends; None if there was no answer in time.
        versions: those that are served; None likewise.
        seconds: how long that took.
    """

    lines: Sequence[str] | None
    versions: Sequence[VersionState] | None
    seconds: float

    def collect(self) -> Iterator[Metric]:
        """What the gateway makes of it, under names of its own; the lines stay as they are."""
        yield GaugeMetricFamily(
            f"{_NAMESPACE}_torchserve_up",
            "Whether TorchServe's own metrics are in this answer: 1 or 0.",
            value=float(self.lines is not None),
        )
        yield GaugeMetricFamily(
            f"{_NAMESPACE}_torchserve_scrape_seconds",
            "How long TorchServe took for its part of this answer.",
            value=self.seconds,
        )
        if self.versions is not None:
            yield from _version_families(self.versions)
            yield from _worker_families(self.versions)


class TorchServeMetrics:
    """Asks TorchServe, once for all who want to know at the same time.

    Args:
        upstream: where it is.
        patience_s: how long it may take.
    """

    def __init__(self, upstream: TorchServe, patience_s: float = _PATIENCE_S) -> None:
        self._upstream = upstream
        self._patience = patience_s
        self._under_way: asyncio.Task[TorchServeSeen] | None = None

    async def look(self) -> TorchServeSeen:
        """What is to be had of TorchServe; never an error, and never late."""
        if self._under_way is None:
            self._under_way = asyncio.create_task(self._look())
            self._under_way.add_done_callback(self._forget)
        # Who hangs up must not take the answer from the others.
        return await asyncio.shield(self._under_way)

    def _forget(self, _: asyncio.Task[TorchServeSeen]) -> None:
        self._under_way = None

    async def _look(self) -> TorchServeSeen:
        start = time.perf_counter()
        lines, versions = await asyncio.gather(
            self._in_time(self._upstream.metrics), self._in_time(self._upstream.states)
        )
        return TorchServeSeen(
            None if lines is None else list(valid_lines(lines.splitlines())),
            versions,
            time.perf_counter() - start,
        )

    async def _in_time(self, ask: Callable[[], Awaitable[_Answer]]) -> _Answer | None:
        try:
            async with asyncio.timeout(self._patience):
                return await ask()
        except (GatewayError, TimeoutError) as error:
            logger.warning("a part of TorchServe's metrics is missing: %r", error)
            return None


def valid_lines(lines: Iterable[str]) -> Iterator[str]:
    """Those lines that Prometheus takes beside the gateway's own, with better help texts.

    Args:
        lines: an answer in Prometheus' text format 0.0.4, as it should be.
    """
    seen = set[str]()
    family = ""  # whose lines come now; none while they are left out
    for line in lines:
        if comment := _COMMENT.fullmatch(line):
            kind, name, text = comment.groups()
            if name != family:
                family = "" if name in seen or name.startswith(f"{_NAMESPACE}_") else name
                seen.add(name)
            if family:
                yield f"# {kind} {name} {_HELP.get(name, text) if kind == 'HELP' else text}"
        elif (sample := _SAMPLE.fullmatch(line)) and family:
            name = sample.group(1)
            if family in (name, _SUFFIX.sub("", name)):
                yield line


def _version_families(versions: Sequence[VersionState]) -> Iterator[Metric]:
    info = GaugeMetricFamily(
        f"{_NAMESPACE}_model_info",
        "1 for each version that is served.",
        labels=("version", "default"),
    )
    queue = GaugeMetricFamily(
        f"{_NAMESPACE}_model_queue_photos",
        "Photos that wait in TorchServe's queue.",
        labels=("version",),
    )
    capacity = GaugeMetricFamily(
        f"{_NAMESPACE}_model_queue_capacity",
        "Photos that TorchServe's queue takes.",
        labels=("version",),
    )
    for version in versions:
        info.add_metric((version.version, str(version.default).lower()), 1)
        queue.add_metric((version.version,), version.queued)
        capacity.add_metric((version.version,), version.queue_capacity)
    return iter((info, queue, capacity))


def _worker_families(versions: Sequence[VersionState]) -> Iterator[Metric]:
    workers = GaugeMetricFamily(
        f"{_NAMESPACE}_workers",
        "Workers, by whether they are loaded and take photos.",
        labels=("version", "ready"),
    )
    labels = ("version", "worker")
    start = GaugeMetricFamily(
        f"{_NAMESPACE}_worker_start_time_seconds",
        "When TorchServe first started this worker, in seconds since 1970; that its process was "
        "replaced after a crash shows in worker_pid only.",
        labels=labels,
    )
    pid = GaugeMetricFamily(
        f"{_NAMESPACE}_worker_pid",
        "The id of the worker's process: another one is another process.",
        labels=labels,
    )
    memory = GaugeMetricFamily(
        f"{_NAMESPACE}_worker_memory_bytes",
        f"Memory that the worker's process holds; {_MINUTE}",
        labels=labels,
    )
    for version in versions:
        ready = sum(worker.ready for worker in version.workers)
        workers.add_metric((version.version, "true"), ready)
        workers.add_metric((version.version, "false"), len(version.workers) - ready)
        for worker in version.workers:
            which = (version.version, worker.id)
            start.add_metric(which, worker.started_at)
            if worker.pid is not None:
                pid.add_metric(which, worker.pid)
            if worker.memory_bytes:  # 0 until TorchServe first looks
                memory.add_metric(which, worker.memory_bytes)
    return iter((workers, start, pid, memory))
