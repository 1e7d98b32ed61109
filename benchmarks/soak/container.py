"""`python -m benchmarks.soak --container NAME --minutes 30`: a running container, from outside.

Everything goes through the published port of the gateway; memory is the container's, as the kernel
counts it.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.containers import Container, Memory, engine
from benchmarks.service import BenchmarkError
from benchmarks.soak.clients import Tally, send_through_gateway
from benchmarks.soak.corpus import Request, make_files, make_requests, what_is_expected
from benchmarks.soak.watch import GROWTH_BOUND_MB, Trend, fit_trend

__all__ = ["ContainerReport", "soak_container"]

# The damage is drawn once for so many requests; a longer run sends files again.
_DISTINCT = 10_000
_SAMPLE_EVERY_S = 2.0
_TELL_EVERY_S = 60.0


@dataclass
class ContainerReport:
    """All that a run has shown.

    Attributes:
        clients: at a time.
        seconds: that it took.
        distinct_files: that were sent.
        limit: the container's memory limit in bytes; 0: none.
        tally: of the answers.
        samples: (requests answered, memory), every two seconds.
        pids: of the container's first process and its worker, at the start and at the end.
        killed: processes that the kernel ended for want of memory.
    """

    clients: int
    distinct_files: int
    limit: int
    seconds: float = 0.0
    tally: Tally = field(default_factory=Tally)
    samples: list[tuple[int, Memory]] = field(default_factory=list)
    pids: tuple[list[int], list[int]] = ([], [])
    killed: int = 0

    @property
    def trend(self) -> Trend:
        """Of the memory that processes allocated."""
        return fit_trend([(answered, memory.anonymous) for answered, memory in self.samples])

    @property
    def is_passed(self) -> bool:
        """Whether everything is as it has to be."""
        is_the_same = self.pids[0] == self.pids[1] and not self.killed
        return not self.tally.wrong and is_the_same and self.trend.growth_mb <= GROWTH_BOUND_MB

    def lines(self) -> list[str]:
        """The figures as sentences."""
        tally, trend = self.tally, self.trend
        photos, good = sum(tally.photos.values()), tally.photos.get("200", 0)
        working = [memory.working_set for _, memory in self.samples]
        limit = f"{self.limit / 2**20:,.0f} MB" if self.limit else "none"
        return [
            f"{tally.sent:,} requests with {photos:,} photos ({self.distinct_files:,} different "
            f"files) by {self.clients} clients in {self.seconds / 60:.1f} minutes "
            f"({tally.sent / self.seconds:.1f} requests/s), through the published port.",
            f"{good:,} photos had to be answered, {photos - good:,} refused.",
            f"Wrong answers, server errors and lost requests: {len(tally.wrong)}.",
            f"Processes (first, workers): {self.pids[0]} at the start, {self.pids[1]} at the end: "
            f"{'the same' if self.pids[0] == self.pids[1] else 'RESTARTED'}; ended by the kernel "
            f"for want of memory: {self.killed}.",
            f"Memory that processes allocated: {trend.windows[0][1]:.0f} MB after the first fifth, "
            f"{trend.windows[-1][1]:.0f} MB at the end; trend {trend.growth_mb:+.1f} MB over that "
            f"time (allowed: {GROWTH_BOUND_MB:.0f}).",
            f"What the limit counts (limit: {limit}): median {statistics.median(working):.0f} MB, "
            f"highest sample {max(working):.0f} MB.",
        ]

    def write(self, out: Path) -> None:
        """Write soak-container.json, .md and .svg."""
        out.mkdir(parents=True, exist_ok=True)
        (out / "soak-container.json").write_text(json.dumps(self._to_json(), indent=1) + "\n")
        wrong = ["", "Wrong:", "", *(f"- {it}" for it in self.tally.wrong[:50])]
        text = [
            "# Good and bad requests to a container, every answer checked",
            "",
            "Written by `python -m benchmarks.soak --container NAME --minutes 30`. The same mix as "
            "in [soak.md](soak.md), all of it through the gateway.",
            "",
            *(f"- {line}" for line in self.lines()),
            *(wrong if self.tally.wrong else []),
            "",
            "| kind of request | requests | median | slowest |",
            "|---|---|---|---|",
            *(
                f"| {kind} | {len(took):,} | {statistics.median(took):.2f} s | {max(took):.2f} s |"
                for kind, took in sorted(self.tally.seconds.items())
            ),
            "",
            "![Memory over requests](soak-container.svg)",
        ]
        (out / "soak-container.md").write_text("\n".join(text) + "\n")
        self._plot(out / "soak-container.svg")

    def _to_json(self) -> dict[str, Any]:
        return {
            "clients": self.clients,
            "requests": self.tally.sent,
            "seconds": round(self.seconds, 1),
            "photos_by_expected_outcome": self.tally.photos,
            "wrong": self.tally.wrong,
            "processes": self.pids,
            "killed_for_memory": self.killed,
            "memory_limit_bytes": self.limit,
            "growth_mb": round(self.trend.growth_mb, 1),
            "passed": self.is_passed,
            "memory_mb": [
                [answered, round(memory.working_set, 1), round(memory.anonymous, 1)]
                for answered, memory in self.samples[:: len(self.samples) // 500 + 1]
            ],
        }

    def _plot(self, path: Path) -> None:
        answered = [number for number, _ in self.samples]
        figure = Figure(figsize=(8, 4), layout="constrained")
        axes = figure.subplots()
        for name in ("working_set", "anonymous"):
            values = [getattr(memory, name) for _, memory in self.samples]
            axes.plot(answered, values, linewidth=0.8, label=name.replace("_", " "))
        axes.set(xlabel="requests answered", ylabel="memory, MB", ylim=(0, None))
        axes.legend()
        figure.savefig(path, metadata={"Date": None})


def soak_container(options: argparse.Namespace, folder: Path) -> ContainerReport:
    """Run it; the options are the command's.

    Raises:
        BenchmarkError: there is no such container, or it does not answer.
    """
    container = Container(options.container)
    container.wait_until_ready()
    print("making files and the answers they should get …", flush=True)
    files = make_files(options.data, _DISTINCT, options.seed)
    expected = what_is_expected(options.archive, files, folder)
    [found] = json.loads(engine("inspect", container.name).stdout)
    report = ContainerReport(options.clients, len(files), found["HostConfig"]["Memory"])
    before, killed = _processes(container), container.killed_for_memory()
    end = time.monotonic() + 60 * options.minutes
    stop = threading.Event()
    watcher = threading.Thread(target=_watch, args=(container, report, stop))
    watcher.start()
    start = time.monotonic()
    try:
        send_through_gateway(
            container.url,
            _key(container),
            _until(end, files, expected, options.seed, report.tally),
            options.clients,
            report.tally,
        )
    finally:
        stop.set()
        watcher.join()
    report.seconds = time.monotonic() - start
    report.pids = (before, _processes(container))
    report.killed = container.killed_for_memory() - killed
    return report


def _until(
    end: float, files: dict[str, bytes], expected: dict[str, Any], seed: int, tally: Tally
) -> Iterator[Request]:
    next_word = time.monotonic()
    for more in range(1_000_000):
        for request in make_requests(files, expected, _DISTINCT, seed + more):
            if request.route == "worker":
                continue
            now = time.monotonic()
            if now > end:
                return
            if now > next_word:
                next_word = now + _TELL_EVERY_S
                print(f"{tally.sent:,} answered, {len(tally.wrong)} wrong", flush=True)
            yield request


def _key(container: Container) -> str:
    """A key of its own, with no limit that matters."""
    name = f"soak-{time.time_ns()}"
    told = container.run("carid", "keys", "create", name, "--per-minute", "1000000")
    found = re.search(r"carid_[\w-]{43}", told.stdout)
    if not found:
        raise BenchmarkError(f"no key in what `carid keys create` said: {told.stdout}")
    return found.group()


def _processes(container: Container) -> list[int]:
    """Of the host's process ids: the container's first, and the worker's as seen inside."""
    workers = container.run(
        "sh", "-c", "grep -l model_service_worker /proc/[0-9]*/cmdline 2>/dev/null || :"
    )
    inside = [int(pid) for pid in re.findall(r"/proc/(\d+)/", workers.stdout)]
    # The shell and its grep name what they look for in their own command lines.
    real = [pid for pid in inside if "python" in _command(container, pid)]
    return [int(container.state()["Pid"]), *sorted(real)]


def _command(container: Container, pid: int) -> str:
    return container.run("cat", f"/proc/{pid}/cmdline", check=False).stdout.partition("\0")[0]


def _watch(container: Container, report: ContainerReport, stop: threading.Event) -> None:
    while not stop.wait(_SAMPLE_EVERY_S):
        with suppress(BenchmarkError, OSError):
            report.samples.append((report.tally.sent, container.memory()))
