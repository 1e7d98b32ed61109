"""A run: what is missing goes to the workers, their answers into the results."""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import AuthenticationError, RayError
from ray.util.annotations import RayDeprecationWarning

import bulk
import handler
from bulk.errors import BulkError
from bulk.results import LastRun, Results, RunSettings, Summary
from bulk.sources import absolute, list_photos
from bulk.worker import Worker
from handler.archive import extract_archive
from handler.cores import usable_cores
from handler.errors import ArchiveError
from handler.identifier import CarIdentifier
from handler.manifest import ModelManifest

__all__ = ["Job", "run"]

# Photos that a worker holds at a time, twice: 3 MB each is usual, 20 MB the most that is read.
_BATCH = 32
# Photos handed to a worker at once: it answers them within seconds, and Ray has less to plan.
_TASK = 128
# Two: one decodes while the other has the engine.
_AT_A_TIME = 2

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be done.

    Attributes:
        source: folder, pattern or listing, see `list_photos`.
        out: folder of the result, on this machine.
        archive: the .mar.
        column: of a CSV or Parquet listing.
        top_k: predictions per photo.
        limit: only so many of the source's photos, the first ones; None for all.
        workers: engines; None for one per core, or per GPU if the archive is for one.
        address: of a Ray cluster; None starts Ray on this machine, for this run.
        overwrite: whether to throw away what another run has left in `out`.
    """

    source: str
    out: Path
    archive: Path
    column: str | None = None
    top_k: int = 5
    limit: int | None = None
    workers: int | None = None
    address: str | None = None
    overwrite: bool = False


def run(job: Job, progress: Progress) -> Summary:
    """Answer the photos that are missing in the result.

    Ctrl-C ends it early: what is answered by then is kept.

    Args:
        job: what is to be done.
        progress: is told how many photos are answered, of how many.

    Raises:
        BulkError: it can't start, or can't go on; what is answered by then is kept.
    """
    start = time.monotonic()
    source = absolute(job.source)
    try:
        content = job.archive.read_bytes()
        with extract_archive(job.archive) as directory:
            model = ModelManifest.read(directory / "model.json")
            if model.engine == "openvino":  # the other one may need a GPU that only workers have
                CarIdentifier.from_directory(directory, threads=1)
    except (OSError, ArchiveError) as error:
        raise BulkError(f"can't use the archive {job.archive}: {error}") from error
    settings = RunSettings(
        model.version, hashlib.sha256(content).hexdigest(), source, job.column, job.top_k
    )
    photos = list_photos(source, job.column)[: job.limit]
    if not len(photos):
        raise BulkError(f"there are no photos in {source}")
    with Results.opened(job.out, settings, job.overwrite) as results:
        wanted = _missing(photos, results)
        count = len(photos) - len(wanted)
        pace = _Pace()
        if len(wanted):
            with suppress(KeyboardInterrupt), _ray(job.address):
                workers = _Workers(ray.put(content), model.engine, job.workers, job.top_k)
                progress(count, len(photos))
                for rows in _answers(workers, wanted, results):
                    results.add(rows)
                    pace.add(len(rows))
                    progress(count + pace.photos, len(photos))
        results.flush()
        missing = len(_missing(photos, results))
        seconds = round(time.monotonic() - start, 1)
        return results.summarise(LastRun(pace.photos, missing, seconds, pace.rate), settings)


class _Pace:
    """Photos a second from the first answers on: the time until then is Ray's start."""

    def __init__(self) -> None:
        self.photos = 0
        self._first = 0
        self._begin = self._end = 0.0

    def add(self, photos: int) -> None:
        self._end = time.monotonic()
        if not self.photos:
            self._first, self._begin = photos, self._end
        self.photos += photos

    @property
    def rate(self) -> float | None:
        """None if it was over too soon to tell."""
        seconds = self._end - self._begin
        return round((self.photos - self._first) / seconds, 1) if seconds > 1 else None


class _Workers:
    """As many workers as the cluster has room for, and what each of them gets."""

    def __init__(
        self, archive: ray.ObjectRef[bytes], engine: str, count: int | None, top_k: int
    ) -> None:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        gpus = int(sum(node.get("GPU", 0) for node in nodes)) if engine == "torch" else 0
        rooms = [int(node.get("CPU", 0)) for node in nodes if node.get("GPU") or not gpus]
        cores = sum(rooms)
        if not cores:
            raise BulkError("the Ray cluster has no CPU cores for this: add machines to it")
        self._count = count or gpus or cores
        # A worker is on one machine: more cores than the largest has, it would wait for for ever.
        self._threads = min(max(1, cores // self._count), max(rooms))
        self._gpus = min(1.0, gpus / self._count)
        self._arguments = {"archive": [archive], "threads": self._threads, "top_k": top_k}

    def answers(self, photos: pa.ChunkedArray, task: int, at_a_time: int) -> Iterator[pa.Table]:
        """Rows, in the order in which they are ready.

        Args:
            photos: their names.
            task: photos to hand to a worker together, at most.
            at_a_time: tasks that a worker is at, side by side.
        """
        task = max(1, min(task, len(photos) // (4 * self._count)))
        names = pa.table({"photo": photos})
        tasks = [names.slice(begin, task) for begin in range(0, len(names), task)]
        answers = ray.data.from_arrow(tasks).map_batches(
            Worker,
            fn_constructor_kwargs=self._arguments,
            batch_size=_BATCH,
            batch_format="pyarrow",
            num_cpus=self._threads,
            num_gpus=self._gpus,
            max_task_retries=2,  # of a worker that died; not for ever
            compute=ActorPoolStrategy(
                size=self._count,
                max_concurrent_calls_per_actor=at_a_time,
                # As many wait at the worker for their turn; none where one may die of another.
                max_tasks_in_flight_per_actor=at_a_time**2,
                enable_true_multi_threading=at_a_time > 1,
            ),
        )
        yield from answers.iter_batches(batch_size=None, batch_format="pyarrow")


def _answers(workers: _Workers, photos: pa.ChunkedArray, results: Results) -> Iterator[pa.Table]:
    """Rows of all photos.

    Raises:
        BulkError: at some of them workers ended, also when they were tried by themselves.
    """
    try:
        yield from workers.answers(photos, _TASK, _AT_A_TIME)
        results.flush()
        # Those that were handed to a worker together with one that it died of, and that one.
        if len(unanswered := _missing(photos, results)):
            yield from workers.answers(unanswered, task=1, at_a_time=1)
            results.flush()
            left = _missing(unanswered, results)
            if len(left):
                raise BulkError(
                    f"workers ended while at {len(left):,} photos, one of them {left[0]}: "
                    "too little memory? All others are answered; run it again to try these again"
                )
    except RayError as error:
        # The rest is the worker's stack.
        raise BulkError(f"the workers failed: {str(error).strip().splitlines()[-1]}") from error


def _missing(photos: pa.ChunkedArray, results: Results) -> pa.ChunkedArray:
    return photos.filter(pc.invert(pc.is_in(photos, value_set=results.photos())))


@contextmanager
def _ray(address: str | None) -> Iterator[None]:
    """Ray for the time of the `with` block, without a word of its own.

    Raises:
        BulkError: it did not start, or there is no cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # `max_task_retries` has no successor among the named parameters yet.
    warnings.simplefilter("ignore", RayDeprecationWarning)
    context = DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.max_errored_blocks = -1  # what a worker died of is tried again by itself
    try:
        with _silence():
            _start(address)
    except (OSError, RuntimeError, ValueError, RayError) as error:
        raise BulkError(_why_not(address, error)) from error
    try:
        yield
    finally:
        ray.shutdown()


def _why_not(address: str | None, error: Exception) -> str:
    """What to do about a Ray that did not start."""
    reason = f"{error} ({error.__cause__})" if error.__cause__ else str(error)
    if not address:
        return f"Ray did not start: {reason}"
    # Ray's own words for both are a page long.
    if isinstance(error, AuthenticationError) or "InvalidAuthToken" in reason:
        return (
            f"the Ray cluster at {address} wants its token: export RAY_AUTH_MODE=token, and where "
            "~/.ray/auth_token does not hold that token RAY_AUTH_TOKEN_PATH=FILE, too"
        )
    return (
        f"can't join a Ray cluster at {address}: {str(error).strip().splitlines()[0]} Run this on "
        "a machine of the cluster, with --address auto, or HOST:PORT as 'ray start --head' tells it"
    )


def _start(address: str | None) -> None:
    if address and "://" in address:
        raise BulkError(
            f"{address} is for Ray's client, which can't run this: go to a machine of the cluster "
            "and name it by --address auto or HOST:PORT"
        )
    if address:
        _require_listener(address)
        # The cluster's machines need the libraries; this code they get from here.
        code = {"py_modules": [bulk, handler]}
        ray.init(address, runtime_env=code, log_to_driver=False, logging_level=logging.CRITICAL)
        return
    ray.init(
        "local",
        num_cpus=usable_cores(),
        include_dashboard=False,
        _node_ip_address="127.0.0.1",  # nobody else's business
        log_to_driver=False,
        logging_level=logging.CRITICAL,
    )


def _require_listener(address: str) -> None:
    """Ray itself would try for minutes.

    Raises:
        OSError: nobody listens at HOST:PORT.
    """
    host, separator, port = address.rpartition(":")
    if separator and port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except (OSError, OverflowError) as error:
            raise ConnectionError(f"{error}.") from error


@contextmanager
def _silence() -> Iterator[None]:
    """Nothing on standard error: Ray's C++ begins by telling its own log level there."""
    kept = os.dup(2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
