"""The run's figures, on the terminal and as files."""

from __future__ import annotations

import json
import platform
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.soak.clients import Tally
from benchmarks.soak.watch import GROWTH_BOUND_MB, MemoryWatch, Trend, fit_trend
from handler.cores import usable_cores

__all__ = ["Report"]


@dataclass(frozen=True, slots=True)
class Report:
    """All that a run has shown.

    Attributes:
        archive: what was served.
        clients: at a time.
        seconds: that all requests took.
        distinct_files: that were sent.
        workers: process ids at the start and at the end.
        tally: of the answers.
        watch: of memory.
    """

    archive: str
    clients: int
    seconds: float
    distinct_files: int
    workers: tuple[list[int], list[int]]
    tally: Tally
    watch: MemoryWatch

    @property
    def has_restarted(self) -> bool:
        """Whether a worker died."""
        return self.workers[0] != self.workers[1]

    @property
    def trend(self) -> Trend:
        """Of the worker's memory."""
        return fit_trend([(answered, worker) for answered, worker, _ in self.watch.samples])

    @property
    def is_passed(self) -> bool:
        """Whether everything is as it has to be."""
        is_flat = self.trend.growth_mb <= GROWTH_BOUND_MB
        return not self.tally.wrong and not self.has_restarted and is_flat

    def lines(self) -> list[str]:
        """The figures as sentences."""
        tally, trend = self.tally, self.trend
        good = tally.photos.get("200", 0)
        photos = sum(tally.photos.values())
        worker = [memory for _, memory, _ in self.watch.samples]
        java = [memory for _, _, memory in self.watch.samples]
        codes = ", ".join(
            f"{count:,} {code}" for code, count in sorted(tally.photos.items()) if code != "200"
        )
        return [
            f"{tally.sent:,} requests with {photos:,} photos ({self.distinct_files:,} different "
            f"files) by {self.clients} clients in {self.seconds:.0f} s "
            f"({tally.sent / self.seconds:.1f} requests/s); archive {self.archive}.",
            f"{good:,} photos had to be answered, {photos - good:,} refused: {codes}.",
            f"Wrong answers: {len(tally.wrong)}.",
            f"Workers: {self.workers[0]} at the start, {self.workers[1]} at the end: "
            f"{'restarted' if self.has_restarted else 'no restart'}.",
            f"Worker's memory (PSS): {trend.windows[0][1]:.0f} MB after the warm-up, "
            f"{trend.windows[-1][1]:.0f} MB at the end, highest sample {max(worker):.0f} MB; trend "
            f"{trend.growth_mb:+.1f} MB over that time (allowed: {GROWTH_BOUND_MB:.0f}). "
            f"Java: {statistics.median(java):.0f} MB, highest {max(java):.0f} MB.",
            f"Connections that the server had closed between requests: {tally.reconnections}.",
        ]

    def write(self, out: Path) -> None:
        """Write soak.json, soak.md and soak.svg."""
        out.mkdir(parents=True, exist_ok=True)
        (out / "soak.json").write_text(json.dumps(self._to_json(), indent=1) + "\n")
        text = [
            "# Good and bad requests, every answer checked",
            "",
            "Written by `make soak`. Half of the photos are good; the others are damaged, hostile, "
            "no photos, or come with impossible options; half of the requests go straight to "
            "TorchServe, half through the gateway. Right is what the archive's own code makes of "
            "the same file alone, in a process of its own: the same confidences to 0.001, the same "
            "class, or the same status and error code.",
            "",
            *(f"- {line}" for line in self.lines()),
            "",
            *(["Wrong:", "", *(f"- {line}" for line in self.tally.wrong[:50]), ""]
              if self.tally.wrong else []),
            "| kind of request | requests | median | slowest |",
            "|---|---|---|---|",
            *(
                f"| {kind} | {len(took):,} | {statistics.median(took):.2f} s | {max(took):.2f} s |"
                for kind, took in sorted(self.tally.seconds.items())
            ),
            "",
            "![Memory over requests](soak.svg)",
        ]  # fmt: skip
        (out / "soak.md").write_text("\n".join(text) + "\n")
        self._plot(out / "soak.svg")

    def _to_json(self) -> dict[str, Any]:
        return {
            "machine": f"{platform.machine()}, {usable_cores()} cores",
            "archive": self.archive,
            "clients": self.clients,
            "requests": self.tally.sent,
            "seconds": round(self.seconds, 1),
            "distinct_files": self.distinct_files,
            "photos_by_expected_outcome": self.tally.photos,
            "wrong": self.tally.wrong,
            "restarted": self.has_restarted,
            "trend": asdict(self.trend),
            "growth_bound_mb": GROWTH_BOUND_MB,
            "passed": self.is_passed,
            "memory_mb": [
                [answered, round(worker, 1), round(java, 1)]
                for answered, worker, java in self.watch.samples[
                    :: len(self.watch.samples) // 500 + 1
                ]
            ],
        }

    def _plot(self, path: Path) -> None:
        answered, worker, java = zip(*self.watch.samples, strict=True)
        figure = Figure(figsize=(8, 4), layout="constrained")
        axes = figure.subplots()
        axes.plot(answered, worker, linewidth=0.8, label="worker")
        axes.plot(answered, java, linewidth=0.8, label="Java")
        axes.plot(
            *zip(*self.trend.windows, strict=True), "k.", label="worker, lower quartile of a window"
        )
        axes.set(xlabel="requests answered", ylabel="memory (PSS), MB", ylim=(0, None))
        axes.legend()
        figure.savefig(path, metadata={"Date": None})
