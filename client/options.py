"""What the commands that ask a server have in common."""

from __future__ import annotations

from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.text import Text

__all__ = ["ApiKey", "AsJson", "Url", "give_up"]

_NOT_ASKED = 2

Url = Annotated[
    str, typer.Option("--url", envvar="CARID_URL", help="Where the server is.", metavar="URL")
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar="CARID_API_KEY",
        help="What the server's operator gave you; on this machine none is needed.",
        metavar="KEY",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON lines instead of a table.")]


def give_up(error: Exception) -> NoReturn:
    """Tell the error in one line; the exit status says that the server was of no use."""
    Console(stderr=True).print(Text(str(error), "red"), soft_wrap=True)
    raise typer.Exit(_NOT_ASKED)
