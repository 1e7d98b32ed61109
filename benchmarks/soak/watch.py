"""The memory of the worker and of Java while requests go by, and whether it grows."""

from __future__ import annotations

import itertools
import re
import statistics
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["GROWTH_BOUND_MB", "MemoryWatch", "Trend", "fit_trend"]

_INTERVAL_S = 0.25
# The first requests fill caches and pools; what is judged begins behind them.
_WARM_UP = 0.2
_WINDOWS = 20
# What the worker's memory may grow by from the warm-up to the end, by the trend.
GROWTH_BOUND_MB = 50.0


@dataclass
class MemoryWatch:
    """Samples (requests answered, worker MB, Java MB) until it is stopped.

    Memory is the proportional set size: what several processes share counts once in all.

    Attributes:
        worker: process id.
        java: process id of TorchServe's frontend.
        samples: taken so far.
    """

    worker: int
    java: int
    samples: list[tuple[int, float, float]] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def of_worker(cls, worker: int) -> MemoryWatch:
        """Watch a worker and the Java process that started it."""
        status = Path(f"/proc/{worker}/status").read_text()
        return cls(worker, int(re.findall(r"^PPid:\s+(\d+)", status, re.MULTILINE)[0]))

    def run(self, answered: Callable[[], int]) -> None:
        """Sample until `stop`, or until one of the processes is gone."""
        while not self._stop.wait(_INTERVAL_S):
            try:
                sample = (answered(), _pss_mb(self.worker), _pss_mb(self.java))
            except (FileNotFoundError, ProcessLookupError):
                return
            self.samples.append(sample)

    def stop(self) -> None:
        """End `run`."""
        self._stop.set()


def _pss_mb(pid: int) -> float:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.findall(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)[0]) / 1024


def _lower_quartile(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 4]


@dataclass(frozen=True, slots=True)
class Trend:
    """How memory goes after the warm-up.

    Attributes:
        windows: (requests, MB) of equal parts of the run: the lower quartile, as a photo of 100
            megapixels takes a gigabyte for a moment.
        growth_mb: from the first window to the last by the median slope between any two of them
            (Theil–Sen), which no single one bends.
    """

    windows: tuple[tuple[float, float], ...]
    growth_mb: float


def fit_trend(samples: Sequence[tuple[int, float]]) -> Trend:
    """Fit a line to samples (requests answered, MB), at least one of them after the warm-up."""
    total = samples[-1][0]
    width = max(1.0, total * (1 - _WARM_UP) / _WINDOWS)
    parts: dict[int, list[tuple[int, float]]] = {}
    for answered, memory in samples:
        if answered >= total * _WARM_UP:
            number = min(int((answered - total * _WARM_UP) / width), _WINDOWS - 1)
            parts.setdefault(number, []).append((answered, memory))
    windows = tuple(
        (statistics.mean(x for x, _ in part), _lower_quartile([y for _, y in part]))
        for _, part in sorted(parts.items())
    )
    slopes = [
        (second - first) / (end - start)
        for (start, first), (end, second) in itertools.combinations(windows, 2)
    ]
    length = windows[-1][0] - windows[0][0]
    return Trend(windows, length * statistics.median(slopes) if slopes else 0.0)
