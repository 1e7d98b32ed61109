"""Measure how fast photos are answered, side by side, and write down what came out.

    make bench [DATA=folder] [ARCHIVE=….mar]

The bare engine, this worker, the gateway before it, and the usual ways to serve the same network
take turns on the same cores with the same photos. Only ratios are meant to be compared between
machines.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.service import BenchmarkError
from benchmarks.serving.acceptance import acceptance
from benchmarks.serving.machine import cores, cpu_model, versions
from benchmarks.serving.measuring import CEILING_BATCH, Plan, measure_all
from benchmarks.serving.photos import KINDS, write_photos
from benchmarks.serving.report import failures, write_results
from benchmarks.serving.servers import SERVERS
from benchmarks.serving.stand_in import CLASSES, prepare
from handler.errors import ArchiveError

_OUT = Path("benchmarks/results")
_ARCHIVE = Path("model_store/car_identifier.mar")
# Share of the cores that others may take before the figures are not to be trusted.
_QUIET = 0.05
_CACHE = Path(".run/bench")


def main() -> int:
    """Run the benchmark of the command line; returns the exit code: 1 if a request failed."""
    options = _options()
    plan = Plan(
        options.only or list(SERVERS), options.kinds, options.clients, options.seconds,
        options.rounds,
    )  # fmt: skip
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C does: servers are stopped first
        signal.signal(number, lambda code, _: sys.exit(128 + code))
    started = time.monotonic()
    options.cache.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=options.cache) as temporary:
        photos = Path(temporary) / "photos"
        try:
            results = _measure(options, plan, photos, Path(temporary))
        except (ArchiveError, BenchmarkError, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    write_results(results, options.out)
    for it in results["acceptance"]:
        verdict = "reached " if it["met"] else "MISSED  "
        print(f"{verdict} {it['ratio']:6.2f}  {it['photos']}: {it['claim']}")
    print(f"{options.out}/serving.md, .json and .svg, in {time.monotonic() - started:.0f} s")
    others = results["others_share"]["mean"]
    if others > _QUIET:
        print(f"other processes took {100 * others:.0f} % of the cores: measure when it is quiet")
    failed = failures(results)
    if failed:
        print("\nREQUESTS FAILED: the figures of these are worth nothing", *failed, sep="\n  ")
    return 1 if failed else 0


def _measure(
    options: argparse.Namespace, plan: Plan, photos: Path, run_dir: Path
) -> dict[str, Any]:
    write_photos(options.photos, photos, plan.kinds)
    files = {kind: sorted((photos / kind).glob("*.jpg")) for kind in plan.kinds}
    small = [path.read_bytes() for path in sorted((photos / "small").glob("*.jpg"))]
    contest = prepare(options.archive, options.network, options.size, small, options.cache)
    results: dict[str, Any] = {
        "machine": {"cpu": cpu_model(), "cores": cores()},
        "versions": versions(),
        "model": {
            "network": contest.network,
            "size": contest.size,
            "classes": CLASSES,
            "stand_in": contest.stand_in,
        },
        "photos": {
            kind: {
                "what": KINDS[kind],
                "files": len(paths),
                "mean_bytes": sum(path.stat().st_size for path in paths) / len(paths),
                "source": "real photos" if options.photos else "made-up textures",
            }
            for kind, paths in files.items()
        },
        "plan": {"seconds": plan.seconds, "rounds": plan.rounds},
        "ceiling_batch": CEILING_BATCH,
    }
    results |= measure_all(plan, contest, photos, run_dir)
    return results | {"acceptance": acceptance(results)}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving", description="Serving speed, side by side."
    )
    parser.add_argument("--archive", type=Path, default=_ARCHIVE, help=f"to be served ({_ARCHIVE})")
    parser.add_argument("--photos", type=Path, help="folder of JPEG photos (made-up textures)")
    parser.add_argument("--out", type=Path, default=_OUT, help=f"folder of the results ({_OUT})")
    parser.add_argument("--cache", type=Path, default=_CACHE, help=f"what takes long ({_CACHE})")
    parser.add_argument("--network", default="resnet152", help="what all serve (resnet152)")
    parser.add_argument("--size", type=int, default=224, help="side of its input in pixels (224)")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--only", nargs="+", choices=list(SERVERS), metavar="SERVER",
                        help=f"some of: {', '.join(SERVERS)}")  # fmt: skip
    parser.add_argument("--seconds", type=float, default=4, help="of each measurement (4)")
    parser.add_argument("--rounds", type=int, default=3, help="of each but eager torch (3)")
    parser.add_argument("--quick", action="store_true", help="one short round: is it alive?")
    options = parser.parse_args()
    if options.quick:
        options.seconds, options.rounds = 1.0, 1
    if min([options.seconds, options.rounds, *options.clients]) <= 0:
        parser.error("--seconds, --rounds and --clients are above 0")
    return options


if __name__ == "__main__":
    sys.exit(main())
