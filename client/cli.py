"""The `carid` command."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import track
from rich.text import Text

from client.api import DEFAULT_URL, CarIdentifierClient
from client.errors import (
    CarIdentifierError,
    RequestRefusedError,
    ServerUnavailableError,
)
from client.output import Failure, Outcome, answer_table, console, json_lines, label_table
from client.types import Answer

__all__ = ["app"]

_PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".heic", ".heif"})
_SOME_FAILED, _NOT_ASKED = 1, 2

app = typer.Typer(
    name="carid",
    help="A photo of a car in; make, model and year out.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)

Url = Annotated[
    str, typer.Option("--url", envvar="CARID_URL", help="Where the server is.", metavar="URL")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command()
def identify(
    photos: Annotated[
        list[Path], typer.Argument(help="Photos, or folders of photos.", metavar="PHOTO")
    ],
    top_k: Annotated[
        int | None, typer.Option("--top-k", min=1, max=20, help="How many guesses per photo.")
    ] = None,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Say which cars are on photos.

    A photo that fails does not stop the others.

    Exit status: 0 all answered, 1 some failed, 2 server not reached or wrong usage.
    """
    progress = Console(stderr=True)
    outcomes: list[Outcome] = []
    broken_off: CarIdentifierError | None = None
    with CarIdentifierClient(url) as client:
        files = track(
            list(_photo_files(photos)),
            description="Identifying",
            console=progress,
            transient=True,
            disable=not progress.is_terminal,
        )
        try:
            for outcome in _identify_all(client, files, top_k):
                outcomes.append(outcome)
                if as_json:
                    print(json_lines([outcome.to_json()]), flush=True)
        except CarIdentifierError as error:
            broken_off = error
    if outcomes and not as_json:
        console().print(answer_table(outcomes, predictions=top_k or 1))
    if broken_off:
        _give_up(broken_off)
    if any(isinstance(outcome.result, Failure) for outcome in outcomes):
        raise typer.Exit(_SOME_FAILED)


@app.command()
def labels(as_json: AsJson = False, url: Url = DEFAULT_URL) -> None:
    """List the car models that the server can tell apart."""
    with CarIdentifierClient(url) as client:
        try:
            table = client.labels()
        except CarIdentifierError as error:
            _give_up(error)
    if as_json:
        print(json_lines(asdict(car) for car in table.labels))
    else:
        console().print(label_table(table))


def _identify_all(
    client: CarIdentifierClient, files: Iterable[Path], top_k: int | None
) -> Iterator[Outcome]:
    for file in files:
        result: Answer | Failure
        try:
            if file.is_dir():
                result = Failure("no_photos", f"no {', '.join(sorted(_PHOTO_SUFFIXES))} in it")
            else:
                result = client.identify(file, top_k=top_k)
        except (RequestRefusedError, ServerUnavailableError) as error:
            result = Failure(error.code, error.message)
        except OSError as error:
            result = Failure("unreadable_file", error.strerror or str(error))
        yield Outcome(str(file), result)


def _photo_files(paths: Iterable[Path]) -> Iterator[Path]:
    """The files themselves, whatever their names, and the photos anywhere in the folders."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        found = sorted(
            file
            for file in path.rglob("*")
            if file.suffix.lower() in _PHOTO_SUFFIXES and file.is_file()
        )
        # A folder without any is an outcome of its own.
        yield from found or [path]


def _give_up(error: CarIdentifierError) -> NoReturn:
    Console(stderr=True).print(Text(str(error), "red"), soft_wrap=True)
    raise typer.Exit(_NOT_ASKED)
