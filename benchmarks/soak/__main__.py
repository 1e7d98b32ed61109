"""`make soak`: good and bad requests against the real service, every answer checked.

Starts the service (or takes one that runs: --gateway and its companions), sends the requests from
16 clients, half of them straight to TorchServe and half through the gateway, and ends with status 1
if one answer was wrong, a worker restarted or its memory grew.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.service import BenchmarkError, Service, started
from benchmarks.soak.clients import Tally, send_all
from benchmarks.soak.container import ContainerReport, soak_container
from benchmarks.soak.corpus import Request, make_files, make_requests, what_is_expected
from benchmarks.soak.report import Report
from benchmarks.soak.watch import MemoryWatch
from handler.errors import ArchiveError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    try:
        with TemporaryDirectory() as folder:
            if options.container:
                report: Report | ContainerReport = soak_container(options, Path(folder))
            else:
                report = _run(options, Path(folder))
    except (BenchmarkError, ArchiveError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    report.write(options.out)
    print("\n".join(report.lines()))
    for line in report.tally.wrong[:20]:
        print(f"wrong: {line}")
    print(f"{'passed' if report.is_passed else 'FAILED'}; written to {options.out}/")
    return 0 if report.is_passed else 1


def _run(options: argparse.Namespace, folder: Path) -> Report:
    print("making files and the answers they should get …", flush=True)
    files = make_files(options.data, options.requests, options.seed)
    expected = what_is_expected(options.archive, files, folder)
    with ExitStack() as running:
        if options.gateway:
            service = Service(
                options.gateway, options.inference, options.management, options.key_file
            )
        else:
            run_dir = folder / "run"
            run_dir.mkdir()
            service = running.enter_context(started(options.archive.resolve(), run_dir))
        requests = make_requests(files, expected, options.requests, options.seed)
        workers = service.workers()
        tally = Tally()
        watch = MemoryWatch.of_worker(workers[0])
        watcher = threading.Thread(target=watch.run, args=[lambda: tally.sent])
        watcher.start()
        start = time.monotonic()
        try:
            send_all(service, _with_progress(requests, options.requests), options.clients, tally)
        finally:
            watch.stop()
            watcher.join()
        seconds = time.monotonic() - start
        return Report(
            options.archive.name, options.clients, seconds, len(files),
            (workers, service.workers()), tally, watch,
        )  # fmt: skip


def _with_progress(requests: Iterator[Request], count: int) -> Iterator[Request]:
    for number, request in enumerate(requests):
        if number % 1000 == 0:
            print(f"{number:,} of {count:,} requests", flush=True)
        yield request


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000, help="default: %(default)s")
    parser.add_argument("--clients", type=int, default=16, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the mix, default: %(default)s")
    parser.add_argument(
        "--data", type=Path, help="folder with photos/, not_cars/, unseen_cars/; else made-up ones"
    )
    parser.add_argument(
        "--archive", type=Path, default=Path("model_store/car_identifier.mar"),
        help="what is (or will be) served, default: %(default)s",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    running = parser.add_argument_group("a service that runs already")
    running.add_argument("--gateway", help="its address, http://127.0.0.1:8000")
    running.add_argument("--inference", default="http://127.0.0.1:8080")
    running.add_argument("--management", default="http://127.0.0.1:8081")
    running.add_argument("--key-file", type=Path, default=Path(".run/key_file.json"))
    container = parser.add_argument_group("a container that runs already")
    container.add_argument("--container", help="its name: all goes through its published port")
    container.add_argument(
        "--minutes", type=float, default=30.0, help="for so long, default: %(default)s"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
