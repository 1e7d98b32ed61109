"""`carid keys`: make, list and revoke the API keys of a gateway on this machine.

The commands change the gateway's key file itself and need no server: whoever may write that file
may give out keys. A gateway that runs takes notice of a change with the next request.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from client.output import console, json_lines
from gateway.keys import KeyStore, KeyStoreError

__all__ = ["app"]

_FAILED = 1

app = typer.Typer(
    name="keys",
    help="Make, list and revoke API keys of a gateway on this machine.",
    no_args_is_help=True,
)

KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--file",
        envvar="CARID_API_KEYS_FILE",
        help="The gateway's key file. [default: api_keys.json in CARID_RUN_DIR, or in .run]",
        metavar="FILE",
    ),
]
Name = Annotated[str, typer.Argument(help="Whose key it is or what it is for.", metavar="NAME")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]

_RUN_DIR = Path(".run")  # as `carid models` has it


@app.command()
def create(
    name: Name,
    per_minute: Annotated[
        int | None,
        typer.Option("--per-minute", min=1, help="Photos a minute; default: the gateway's."),
    ] = None,
    as_json: AsJson = False,
    file: KeyFile = None,
) -> None:
    """Make a key and print it: this once, since only its hash is kept.

    Examples:

      carid keys create laptop

      carid keys create batch --per-minute 6000
    """
    store = _key_store(file)
    try:
        secret = store.create(name, per_minute)
    except KeyStoreError as error:
        _fail(error)
    if as_json:
        print(json_lines([{"name": name, "key": secret, "per_minute": per_minute}]))
    else:
        print(secret)
        _note(
            f"The key {name!r} of {store.path}, shown this once. "
            "Send it as 'Authorization: Bearer KEY'."
        )


@app.command("list")
def list_keys(as_json: AsJson = False, file: KeyFile = None) -> None:
    """List all keys: their names, not the keys, which nobody has but their owners."""
    store = _key_store(file)
    try:
        keys = store.list()
    except KeyStoreError as error:
        _fail(error)
    if as_json:
        for key in keys:
            entry = {"name": key.name, "created": key.created, "per_minute": key.per_minute}
            print(json_lines([entry]))
    elif not keys:
        _note(f"There is no key in {store.path}. Make one: carid keys create NAME")
    else:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("Name", overflow="fold")
        table.add_column("Created (UTC)", no_wrap=True)
        table.add_column("Photos a minute", justify="right")
        for key in keys:
            created = key.created[:16].replace("T", " ")
            table.add_row(Text(key.name), created, str(key.per_minute or "default"))
        console().print(table)


@app.command()
def revoke(name: Name, file: KeyFile = None) -> None:
    """Take a key back: a gateway that runs refuses its next request."""
    store = _key_store(file)
    try:
        store.revoke(name)
    except KeyStoreError as error:
        _fail(error)
    _note(f"The key {name!r} opens nothing any more.")


def _key_store(file: Path | None) -> KeyStore:
    """The keys of the file that was named, or else of the service that is served from here."""
    if file is not None:
        return KeyStore(file)
    named = os.environ.get("CARID_RUN_DIR")  # empty counts as unset, as for the service
    if not named and not _RUN_DIR.is_dir():
        _fail(
            f"There is no run directory {_RUN_DIR.absolute()}: name the gateway's key file "
            "(--file, CARID_API_KEYS_FILE), or the directory that the service is started with "
            "(CARID_RUN_DIR)"
        )
    return KeyStore(Path(named or _RUN_DIR) / "api_keys.json")


def _note(text: str) -> None:
    """For people: on standard error, so that a program gets the answer alone."""
    Console(stderr=True).print(Text(text), soft_wrap=True)


def _fail(error: KeyStoreError | str) -> NoReturn:
    Console(stderr=True).print(Text(str(error), "red"), soft_wrap=True)
    raise typer.Exit(_FAILED)
