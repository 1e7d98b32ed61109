"""The folder of a run: what is answered, what it was answered with, and what is in it.

    OUT/run.json                    archive, source and options: what may go on here
    OUT/answers/photos-000001.parquet, …
    OUT/summary.json                written when a run ends

Made for being killed at any moment: an answer counts once its file has its name, and a file gets
its name when it is complete and on the disk.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bulk.errors import BulkError

__all__ = ["LastRun", "Results", "RunSettings", "Summary"]

# A file's worth: what a SIGKILL may cost, some seconds, against how many files a million make.
_ROWS_PER_FILE = 1000
_TOP_MAKES = 20


_ANSWERS = re.compile(r"photos-\d{6,}\.parquet")
_WRITTEN = re.compile(rf"{_ANSWERS.pattern}|\.{_ANSWERS.pattern}\.(tmp|damaged-\d+)")


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What answers must have in common to lie in one folder.

    Attributes:
        model_version: of the archive.
        archive_sha256: of the archive's file.
        source: where the photos come from.
        column: of a listing.
        top_k: predictions per photo.
    """

    model_version: str
    archive_sha256: str
    source: str
    column: str | None
    top_k: int


@dataclass(frozen=True, slots=True)
class LastRun:
    """How the last run went.

    Attributes:
        photos: that it answered or refused.
        missing: that it should have, but was stopped before.
        seconds: it took, with its start.
        photos_per_second: from its first answers on; None if it was over too soon to tell.
    """

    photos: int
    missing: int
    seconds: float
    photos_per_second: float | None


@dataclass(frozen=True, slots=True)
class Summary:
    """What is in the folder.

    Attributes:
        photos: in all, answered or refused.
        verdicts: verdict → photos.
        errors: error code → photos.
        makes: the most frequent makes of identified cars → photos.
        model_version: that answered.
        last_run: how long it took.
    """

    photos: int
    verdicts: dict[str, int]
    errors: dict[str, int]
    makes: dict[str, int]
    model_version: str
    last_run: LastRun


class Results:
    """A run's folder, opened by this process alone."""

    def __init__(self, folder: Path) -> None:
        """Begin with a folder that `opened` has made ready."""
        self._folder = folder
        self._answers = folder / "answers"
        self._answers.mkdir(exist_ok=True)
        self._rows: list[pa.Table] = []
        self._last = 0
        self._discard_cut_off()

    @classmethod
    @contextmanager
    def opened(cls, folder: Path, settings: RunSettings, overwrite: bool) -> Iterator[Self]:
        """Make a folder ready to begin or to go on; on leaving, all rows are on the disk.

        Raises:
            BulkError: it holds something else, or another run is at it.
        """
        with ExitStack() as held:
            try:
                held.enter_context(_alone(folder))
                if overwrite and (folder / "run.json").exists():
                    _discard(folder)
                _begin_or_go_on(folder / "run.json", settings)
                results = cls(folder)
            except OSError as error:
                raise BulkError(f"can't use {folder}: {error.strerror or error}") from error
            try:
                yield results
            finally:
                results.flush()

    def photos(self) -> pa.ChunkedArray:
        """The names of all photos that are told of."""
        files = [pq.read_table(file, columns=["photo"])["photo"] for file in self._files()]
        return pa.chunked_array([chunk for file in files for chunk in file.chunks], pa.string())

    def add(self, rows: pa.Table) -> None:
        """Take rows, and write them when they are enough for a file."""
        self._rows.append(rows)
        if sum(map(len, self._rows)) >= _ROWS_PER_FILE:
            self.flush()

    def flush(self) -> None:
        """Write the rows that wait."""
        rows, self._rows = self._rows, []
        if not any(map(len, rows)):
            return
        sink = pa.BufferOutputStream()
        pq.write_table(pa.concat_tables(rows), sink, compression="zstd")
        self._last += 1
        _write(self._answers / f"photos-{self._last:06}.parquet", sink.getvalue())

    def summarise(self, run: LastRun, settings: RunSettings) -> Summary:
        """Count what lies in the files, and write it beside them."""
        verdicts, errors, makes = Counter[str](), Counter[str](), Counter[str]()
        for file in self._files():
            table = pq.read_table(file, columns=["verdict", "error_code", "make"])
            verdicts.update(_counts(table["verdict"]))
            errors.update(_counts(table["error_code"]))
            makes.update(_counts(table.filter(pc.equal(table["verdict"], "identified"))["make"]))
        summary = Summary(
            photos=verdicts.total() + errors.total(),
            verdicts=dict(verdicts.most_common()),
            errors=dict(errors.most_common()),
            makes=dict(makes.most_common(_TOP_MAKES)),
            model_version=settings.model_version,
            last_run=run,
        )
        _write(self._folder / "summary.json", json.dumps(asdict(summary), indent=2).encode())
        return summary

    def _files(self) -> list[Path]:
        return sorted(it for it in self._answers.iterdir() if _ANSWERS.fullmatch(it.name))

    def _discard_cut_off(self) -> None:
        for unfinished in self._answers.glob(".*.tmp"):
            unfinished.unlink()
        for file in self._files():
            self._last = max(self._last, int(file.stem.partition("-")[2]))
            try:
                pq.read_table(file)
            except (pa.ArrowException, OSError):
                file.rename(file.with_name(f".{file.name}.damaged-{time.time_ns()}"))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a folder; it is given back however this process ends."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "run.json").exists() and any(folder.glob("[!.]*")):
        raise BulkError(f"{folder} holds other files: name a new or an empty folder")
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BulkError(f"another run is writing to {folder}: wait for it or stop it") from None
        yield


def _begin_or_go_on(manifest: Path, settings: RunSettings) -> None:
    if not manifest.exists():
        _write(manifest, json.dumps(asdict(settings), indent=2).encode())
        return
    before = _read(manifest)
    differing = [
        f"{name} was {before.get(name)}, now {value}"
        for name, value in asdict(settings).items()
        if before.get(name) != value
    ]
    if differing:
        raise BulkError(
            f"{manifest.parent} holds the answers of another run ({'; '.join(differing)}): name "
            "another folder, or say --overwrite to throw those answers away"
        )


def _read(manifest: Path) -> dict[str, object]:
    try:
        content = json.loads(manifest.read_text())
    except ValueError:
        content = None
    if not isinstance(content, dict) or not {"archive_sha256", "source"} <= content.keys():
        raise BulkError(f"{manifest} is no description of a run: name another folder")
    return content


def _discard(folder: Path) -> None:
    """Remove what a run wrote, and nothing else.

    Raises:
        BulkError: it was no run of this program.
    """
    _read(folder / "run.json")
    for file in [*(folder / "answers").glob("*"), folder / "summary.json", folder / "run.json"]:
        if file.parent == folder or _WRITTEN.fullmatch(file.name):
            file.unlink(missing_ok=True)


def _write(path: Path, content: bytes | pa.Buffer) -> None:
    unfinished = path.with_name(f".{path.name}.tmp")
    try:
        with unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        raise BulkError(f"can't write {path}: {error.strerror or error}") from error


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    counts = column.drop_null().value_counts()
    return {str(pair["values"]): int(pair["counts"]) for pair in counts.to_pylist()}
