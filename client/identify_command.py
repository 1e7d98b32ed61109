"""`carid identify`: photos, folders and patterns in, a table, JSON lines or CSV out."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track

from client.api import DEFAULT_URL, CarIdentifierClient
from client.errors import (
    CarIdentifierError,
    NotFoundError,
    RequestRefusedError,
    ServerUnavailableError,
    UnauthorizedError,
)
from client.options import ApiKey, AsJson, Url, give_up
from client.output import CsvLines, Failure, Outcome, answer_table, console, json_lines
from client.photos import PHOTO_SUFFIXES, photo_files
from client.types import Answer

__all__ = ["identify"]

_SOME_FAILED, _INTERRUPTED = 1, 130
# As many as the worker answers together.
_JOBS = 8
# Photos that are asked about before the one that is printed next, for each job.
_AHEAD = 4


@dataclass(frozen=True, slots=True)
class _Question:
    """What is asked about each photo."""

    client: CarIdentifierClient
    top_k: int | None
    version: str | None
    box: str | None
    explain: bool

    def ask(self, file: Path) -> Outcome:
        """What became of one photo.

        Raises:
            CarIdentifierError: of any other photo would become the same.
        """
        result: Answer | Failure
        try:
            if file.is_dir():
                kinds = ", ".join(sorted(PHOTO_SUFFIXES))
                result = Failure("no_photos", f"no {kinds} in it")
            else:
                result = self.client.identify(
                    file,
                    top_k=self.top_k,
                    version=self.version,
                    box=self.box,
                    explain=self.explain,
                )
        except (UnauthorizedError, NotFoundError):
            raise
        except (RequestRefusedError, ServerUnavailableError) as error:
            result = Failure(error.code, error.message)
        except OSError as error:
            result = Failure("unreadable_file", error.strerror or str(error))
        # A name that is no Unicode must not end a run where it is printed.
        return Outcome(os.fsencode(file).decode(errors="replace"), result)


def identify(
    photos: Annotated[
        list[str],
        typer.Argument(
            help="Photos, folders of photos, or patterns like 'cars/**/*.jpg'.", metavar="PHOTO"
        ),
    ],
    top_k: Annotated[
        int | None, typer.Option("--top-k", min=1, max=20, help="How many guesses per photo.")
    ] = None,
    version: Annotated[
        str | None, typer.Option("--version", help="Which version of the model shall answer.")
    ] = None,
    box: Annotated[
        str | None,
        typer.Option(
            "--box",
            help="Where the car is, in pixels of the upright photo.",
            metavar="LEFT,TOP,RIGHT,BOTTOM",
        ),
    ] = None,
    heatmaps: Annotated[
        Path | None,
        typer.Option(
            "--heatmap",
            help="Folder for a see-through PNG per photo: where the network looked.",
            metavar="FOLDER",
        ),
    ] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, max=64, help="How many photos at once.")
    ] = _JOBS,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV instead of a table.")] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Say which cars are on photos.

    A photo that fails does not stop the others; Ctrl-C leaves what was answered until then.

    Exit status: 0 all answered, 1 some failed, 2 server not reached or wrong usage.
    """
    if as_json and as_csv:
        raise typer.BadParameter("--json or --csv, not both")
    pictures = _Pictures(heatmaps) if heatmaps else None
    output = _Output(as_json=as_json, as_csv=as_csv, predictions=top_k or 1)
    progress = Console(stderr=True)
    with CarIdentifierClient(url, api_key=api_key) as client:
        question = _Question(client, top_k, version, box, explain=heatmaps is not None)
        files = list(photo_files(photos))
        outcomes = track(
            _in_order(question.ask, files, jobs),
            total=len(files),
            description="Identifying",
            console=progress,
            transient=True,
            disable=not progress.is_terminal,
        )
        try:
            for outcome in outcomes:
                output.add(pictures.keep(outcome) if pictures else outcome)
        except CarIdentifierError as error:
            output.close()
            give_up(error)
        except KeyboardInterrupt:
            output.close()
            sys.stdout.flush()
            print("interrupted", file=sys.stderr, flush=True)
            # Not `sys.exit`, which would wait for the answers that nobody wants any more.
            os._exit(_INTERRUPTED)
    output.close()
    if output.some_failed:
        raise typer.Exit(_SOME_FAILED)


def _in_order(
    ask: Callable[[Path], Outcome], files: Iterable[Path], jobs: int
) -> Iterator[Outcome]:
    """Ask several at once; outcomes come in the order of the files, as soon as they can."""
    waiting = iter(files)
    pool = ThreadPoolExecutor(jobs)
    try:
        running: deque[Future[Outcome]] = deque(
            pool.submit(ask, file) for file in islice(waiting, jobs * _AHEAD)
        )
        while running:
            outcome = running.popleft().result()
            running.extend(pool.submit(ask, file) for file in islice(waiting, 1))
            yield outcome
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class _Output:
    """Prints outcomes: line by line as they come, or a table of all at the end."""

    def __init__(self, *, as_json: bool, as_csv: bool, predictions: int) -> None:
        self.some_failed = False
        self._as_json = as_json
        self._csv = CsvLines() if as_csv else None
        self._predictions = predictions
        self._outcomes: list[Outcome] = []

    def add(self, outcome: Outcome) -> None:
        """Take the next outcome."""
        self.some_failed |= isinstance(outcome.result, Failure)
        if self._as_json:
            print(json_lines([outcome.to_json()]), flush=True)
        elif self._csv:
            print(self._csv.line(outcome), flush=True)
        else:
            self._outcomes.append(outcome)

    def close(self) -> None:
        """Print what has not been printed."""
        if self._outcomes:
            console().print(answer_table(self._outcomes, predictions=self._predictions))


class _Pictures:
    """Writes heatmaps into a folder, each named after its photo."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._used: set[str] = set()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise typer.BadParameter(f"can't write into {folder}: {error.strerror}") from error

    def keep(self, outcome: Outcome) -> Outcome:
        """Write the outcome's heatmap, if it has one; the outcome then names the file."""
        if isinstance(outcome.result, Failure) or outcome.result.heatmap is None:
            return outcome
        # Not just the photo's name: the folder may be that of the photos.
        stem = f"{Path(outcome.photo).stem}.heatmap"
        name, number = f"{stem}.png", 1
        while name in self._used:
            number += 1
            name = f"{stem}-{number}.png"
        self._used.add(name)
        path = self._folder / name
        try:
            path.write_bytes(outcome.result.heatmap.png)
        except OSError as error:
            return Outcome(
                outcome.photo,
                Failure("heatmap_not_written", f"can't write {path}: {error.strerror}"),
            )
        return Outcome(outcome.photo, outcome.result, str(path))
