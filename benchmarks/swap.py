"""Swap and roll back under load, and count: `python -m benchmarks.swap`.

Starts the service on free ports with a copy of an archive, makes a second version of it, and has
clients ask the gateway without a pause while `carid models` swaps to the second version and rolls
back, time and again. Every answer is compared with the one before the first swap.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.service import BenchmarkError, Service, started
from benchmarks.serving.load import Load, post
from benchmarks.serving.photos import write_photos
from benchmarks.soak.clients import Tally, send_all
from benchmarks.soak.corpus import Expected, Request

__all__ = ["Outcome", "carid", "load", "swap_and_roll_back", "with_version"]

_ROOT = Path(__file__).resolve().parents[1]
_ARCHIVE = _ROOT / "model_store" / "car_identifier.mar"
_CLIENTS = 16
# Beyond any swap on a slow machine under load.
_COMMAND_TIMEOUT = 300


@dataclass
class Outcome:
    """What became of the requests.

    Attributes:
        tally: of the requests; those without an answer are among the wrong ones.
        changes: seconds that each swap and each rollback took.
        versions: which version answered after each of them.
    """

    tally: Tally = field(default_factory=Tally)
    changes: list[float] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)

    @property
    def lost(self) -> list[str]:
        """The requests that nobody answered."""
        return [it for it in self.tally.wrong if "no answer" in it]

    @property
    def wrong(self) -> list[str]:
        """The requests with another answer than before the first swap, an error among them."""
        return [it for it in self.tally.wrong if "no answer" not in it]


def with_version(
    archive: Path,
    target: Path,
    version: str,
    changes: Mapping[str, Callable[[bytes], bytes]] | None = None,
) -> Path:
    """Copy an archive under another version.

    Args:
        archive: the .mar.
        target: the .mar to write.
        version: of the copy.
        changes: entry of the archive → what to make of its content.
    """

    def renamed(content: bytes, *path: str) -> bytes:
        data = json.loads(content)
        inner = data
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = version
        return json.dumps(data).encode()

    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(target, "w") as copy:
        for entry in source.infolist():
            content = source.read(entry)
            if entry.filename == "MAR-INF/MANIFEST.json":
                content = renamed(content, "model", "modelVersion")
            elif entry.filename == "model.json":
                content = renamed(content, "version")
            elif changes and entry.filename in changes:
                content = changes[entry.filename](content)
            copy.writestr(entry, content)
    return target


def carid(service: Service, *arguments: str) -> str:
    """Run `carid models` for a service; returns what it prints.

    Raises:
        BenchmarkError: it failed.
    """
    run_dir = str(service.key_file.parent)
    done = subprocess.run(  # noqa: S603  (our own arguments)
        [sys.executable, "-m", "client", "models", "--run-dir", run_dir, *arguments],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=_COMMAND_TIMEOUT,
    )
    if done.returncode:
        raise BenchmarkError(f"carid models {' '.join(arguments)}: {done.stdout}{done.stderr}")
    return done.stdout


@contextmanager
def load(service: Service, photos: Path, clients: int, tally: Tally) -> Iterator[None]:
    """Have clients ask about the photos, each without a pause, until the `with` block ends."""
    asked = [_request(service, path.read_bytes()) for path in sorted(photos.glob("*.jpg"))]
    stop = threading.Event()

    def until_stopped() -> Iterator[Request]:
        for request in cycle(asked):
            if stop.is_set():
                return
            yield request

    sender = threading.Thread(target=send_all, args=(service, until_stopped(), clients, tally))
    sender.start()
    try:
        yield
    finally:
        stop.set()
        sender.join()


def swap_and_roll_back(
    service: Service, photos: Path, version: Path, rounds: int, clients: int = _CLIENTS
) -> Outcome:
    """Swap to the other version and back, under load.

    Args:
        service: that serves the first version.
        photos: folder of JPEG files that the clients ask about.
        version: archive of the other version.
        rounds: how often.
        clients: how many ask at once.

    Raises:
        BenchmarkError: a command failed.
    """
    outcome = Outcome()
    with load(service, photos, clients, outcome.tally):
        for number in range(rounds):
            for command in (("swap", str(version)), ("rollback",)):
                start = time.monotonic()
                carid(service, *command)
                outcome.changes.append(time.monotonic() - start)
                answer = _ask(service, next(photos.glob("*.jpg")).read_bytes())
                outcome.versions.append(str(answer["model_version"]))
                print(
                    f"{number + 1}. {command[0]} to {outcome.versions[-1]} in "
                    f"{outcome.changes[-1]:.0f} s; {outcome.tally.sent} requests so far, "
                    f"{len(outcome.lost)} lost, {len(outcome.wrong)} wrong",
                    flush=True,
                )
    return outcome


def _request(service: Service, photo: bytes) -> Request:
    answer = _ask(service, photo)
    confidences = tuple(it["confidence"] for it in answer["predictions"])
    expected = Expected(200, None, answer["class_id"], confidences)
    return Request("photo", "gateway", photo, (expected,))


def _ask(service: Service, photo: bytes) -> dict[str, Any]:
    reply = post(Load(f"{service.gateway}/v1/identify", "", 1, 0, 0), photo)
    if reply.status != 200:
        raise BenchmarkError(f"HTTP {reply.status}: {reply.body[:200]!r}")
    answer: dict[str, Any] = json.loads(reply.body)
    return answer


def main() -> int:
    """Run it; returns the exit status: 0 if nothing was lost or wrong."""
    parser = argparse.ArgumentParser(
        description="Swap and roll back under load, and count what is lost or wrong.",
        epilog="example: python -m benchmarks.swap --rounds 10",
    )
    parser.add_argument("--archive", type=Path, default=_ARCHIVE, help="the .mar (the bundled one)")
    parser.add_argument("--photos", type=Path, help="folder of photos (made up)")
    parser.add_argument("--rounds", type=int, default=10, help="swaps, each rolled back (10)")
    parser.add_argument("--clients", type=int, default=_CLIENTS, help=f"at once ({_CLIENTS})")
    options = parser.parse_args()
    with TemporaryDirectory() as temporary:
        store, run_dir = Path(temporary) / "store", Path(temporary) / "run"
        store.mkdir()
        run_dir.mkdir()
        archive = Path(shutil.copy(options.archive, store))
        other = with_version(archive, Path(temporary) / "other.mar", "99.0")
        write_photos(options.photos, Path(temporary), ["small"], small=24)
        try:
            with started(archive, run_dir) as service:
                outcome = swap_and_roll_back(
                    service, Path(temporary) / "small", other, options.rounds, options.clients
                )
        except (BenchmarkError, ValueError) as error:
            print(error, file=sys.stderr)
            return 1
    print(
        f"{options.rounds} swaps and as many rollbacks under {options.clients} clients: "
        f"{outcome.tally.sent} requests sent, {len(outcome.lost)} lost, {len(outcome.wrong)} wrong"
    )
    for line in outcome.tally.wrong[:20]:
        print(f"  {line}")
    return 1 if outcome.tally.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
