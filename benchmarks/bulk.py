"""`carid bulk` beside the bare engine, and its promise: killed and resumed, each photo once.

    python -m benchmarks.bulk PHOTOS [--archive ARCHIVE]

The bare engine's loop decodes and runs the same photos in one process without a server, before and
after the run; see `benchmarks.serving.ceiling`. Prints a table and writes it to benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.dataset

from benchmarks.service import BenchmarkError
from benchmarks.serving.machine import cores, cpu_model
from handler.archive import extract_archive

_CARID = [sys.executable, "-c", "from client.cli import app; app()", "bulk"]
_RESULT = Path(__file__).parent / "results" / "bulk.md"
_SECONDS, _BATCH = 4.0, 8


def main() -> None:
    """Measure, kill, resume, count."""
    parser = argparse.ArgumentParser(description="carid bulk beside the bare engine.")
    parser.add_argument("photos", type=Path, help="a folder of JPEG files")
    parser.add_argument("--archive", type=Path, default=Path("model_store/car_identifier.mar"))
    args = parser.parse_args()
    asked = sorted(str(path.resolve()) for path in args.photos.glob("*.jpg"))
    with tempfile.TemporaryDirectory(prefix="carid_bench_") as scratch:
        whole, broken = Path(scratch, "whole"), Path(scratch, "broken")
        command = [*_CARID, str(args.photos.resolve()), "--archive", str(args.archive)]
        with extract_archive(args.archive) as unpacked:
            ceilings = [_ceiling(unpacked, args.photos)]
            first = _finish([*command, str(whole)], whole, asked)
            ceilings.append(_ceiling(unpacked, args.photos))
        killed = _kill([*command, str(broken)], broken, len(asked) // 2)
        resumed = _finish([*command, str(broken)], broken, asked)
    bare = max(rate for ceiling in ceilings for rate in ceiling.values())
    rate = first["last_run"]["photos_per_second"]
    ways = "\n".join(
        f"| bare engine, {way} | {ceilings[0][way]:.0f}, {ceilings[1][way]:.0f} |"
        for way in ceilings[0]
    )
    report = f"""# Bulk speed

Written by `python -m benchmarks.bulk`. {cpu_model()}, {cores()} cores; {len(asked):,} photos.

| | photos/s |
|---|---|
{ways}
| **carid bulk**, from its first answers on | {rate:.0f} |
| **carid bulk ÷ the fastest bare loop** | **{rate / bare:.2f}** |

The bare loops were timed before and after the run. The whole run took
{first["last_run"]["seconds"]:.0f} s, with the start of Ray and the engines.

Killed (SIGKILL to the process group) with {killed:,} photos on the disk, and run again: it answered
the other {resumed["last_run"]["photos"]:,}. Each photo is in the result exactly once.
Verdicts: {_counts(resumed["verdicts"])}; refused: {_counts(resumed["errors"])}.
"""
    _RESULT.write_text(report, encoding="utf-8")
    print(report)


def _ceiling(archive: Path, photos: Path) -> dict[str, float]:
    """Way of decoding and running → photos a second, without any of Ray."""
    job = {"archive": str(archive), "photos": str(photos), "seconds": _SECONDS, "batch": _BATCH}
    finished = subprocess.run(
        [sys.executable, "-m", "benchmarks.serving.ceiling"],
        input=json.dumps(job),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    ways = json.loads(finished.stdout)["ways"]
    return {way: timed["photos_per_second"] for way, timed in ways.items()}


def _finish(command: list[str], out: Path, asked: list[str]) -> dict[str, Any]:
    """Run to the end; returns the summary.

    Raises:
        BenchmarkError: a photo is missing in the result, or there more than once.
    """
    subprocess.run(command, check=True, stdout=sys.stderr)  # noqa: S603  (our own command)
    if sorted(_answered(out)) != asked:
        raise BenchmarkError(f"not each photo is in {out} exactly once")
    return dict(json.loads((out / "summary.json").read_text()))


def _kill(command: list[str], out: Path, enough: int) -> int:
    """Run until so many photos are on the disk, then kill all of it; returns how many they are."""
    process = subprocess.Popen(command, start_new_session=True, stdout=sys.stderr)  # noqa: S603
    while len(_answered(out)) < enough:
        if process.poll() is not None:
            raise BenchmarkError("the run ended before it was killed")
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return len(_answered(out))


def _answered(out: Path) -> list[str]:
    files = [str(path) for path in out.glob("answers/photos-*.parquet")]
    table = pyarrow.dataset.dataset(files).to_table(columns=["photo"]) if files else None
    return list(table["photo"].to_pylist()) if table else []


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"


if __name__ == "__main__":
    main()
