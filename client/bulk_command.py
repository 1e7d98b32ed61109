"""`carid bulk`: photos by the million, without a server."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from client.output import console

if TYPE_CHECKING:
    from bulk.results import Summary

__all__ = ["bulk"]

_BROKEN_OFF, _NOT_STARTED, _INTERRUPTED = 1, 2, 130
# Where nobody watches a bar, a line now and then.
_LINE_EVERY_S = 30.0
_ROOT = Path(__file__).resolve().parents[1]
_BUNDLED = _ROOT / "model_store" / "car_identifier.mar"


def bulk(
    source: Annotated[
        str,
        typer.Argument(
            help="A folder, a pattern in quotes ('cars/**/*.jpg'), or a file that lists photos: "
            "text, CSV or Parquet. Here, or in a bucket: s3://…, gs://…",
            metavar="SOURCE",
        ),
    ],
    out: Annotated[
        Path, typer.Argument(help="Folder for the result, new or of the same run.", metavar="OUT")
    ],
    archive: Annotated[Path, typer.Option("--archive", help="The model's .mar.")] = _BUNDLED,
    top_k: Annotated[int, typer.Option("--top-k", min=1, max=20, help="Guesses per photo.")] = 5,
    column: Annotated[
        str | None, typer.Option("--column", help="Of a CSV or Parquet listing.", metavar="NAME")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Only the first N photos, to try it.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, help="Engines side by side.", show_default="one per core"),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option("--address", help="Of a Ray cluster, or auto.", show_default="this machine"),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Throw away what another run left in OUT.")
    ] = False,
) -> None:
    """Say which cars are on all photos of a folder or a bucket, in Parquet files.

    Run it again after it was stopped, whatever stopped it: it answers what is missing. Photos that
    can't be answered are rows with an error code.

    Exit status: 0 all done, 1 broken off, 2 not started, 130 stopped by Ctrl-C.
    """
    told = Console(stderr=True)
    try:
        from bulk.errors import BulkError
        from bulk.run import Job, run
    except ImportError as error:
        told.print(Text(f"{error}: {_way_out()}", "red"), soft_wrap=True)
        raise typer.Exit(_NOT_STARTED) from error
    job = Job(source, out, archive, column, top_k, limit, workers, address, overwrite)
    with _Watch(told) as watch:
        try:
            summary = run(job, watch)
        except BulkError as error:
            watch.stop()
            told.print(Text(str(error), "red"), soft_wrap=True)
            raise typer.Exit(_BROKEN_OFF if watch.started else _NOT_STARTED) from error
    console().print(_table(summary))
    if summary.last_run.missing:
        told.print(
            f"Stopped: {summary.last_run.missing:,} photos are missing. "
            "Give the same command again to go on.",
            soft_wrap=True,
        )
        raise typer.Exit(_INTERRUPTED)


def _way_out() -> str:
    """What to do where something that bulk needs is not there."""
    if not all((_ROOT / part).is_dir() for part in ("bulk", "handler")):
        return (
            "the container image has no bulk; a checkout of the repository has, set up by "
            "python3.11 deploy/bootstrap.py bulk"
        )
    return "set it up by python3.11 deploy/bootstrap.py bulk, or install car-identifier[bulk]"


class _Watch(Progress):
    """How far it is: a bar on a terminal, lines elsewhere."""

    def __init__(self, told: Console) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=told,
            transient=True,
            disable=not told.is_terminal,
        )
        self.started = False
        self._bar = self.add_task("Looking for photos", total=None, rate="")
        self._told = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        self.started = True
        task = self.tasks[self._bar]
        if task.total is None:
            self.reset(self._bar, description="Identifying", total=total)
        rate = f"{task.speed:,.0f} photos/s" if task.speed else ""
        self.update(self._bar, completed=done, rate=rate)
        if not self.console.is_terminal and time.monotonic() > self._told + _LINE_EVERY_S:
            self._told = time.monotonic()
            print(f"{done:,} of {total:,} photos  {rate}".rstrip(), file=sys.stderr, flush=True)


def _table(summary: Summary) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    run = summary.last_run
    speed = f", {run.photos_per_second:,.1f} a second" if run.photos_per_second else ""
    table.add_row("photos", f"{summary.photos:,}")
    table.add_row("this run", f"{run.photos:,} in {run.seconds:,.0f} s{speed}")
    for title, counts in (
        ("verdicts", summary.verdicts),
        ("refused", summary.errors),
        ("makes", dict(list(summary.makes.items())[:5])),
    ):
        told = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        table.add_row(title, Text(told or "none"))
    return table
