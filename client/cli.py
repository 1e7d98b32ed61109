"""The `carid` command."""

from __future__ import annotations

from dataclasses import asdict

import typer

from client import key_commands, model_commands
from client.api import DEFAULT_URL, CarIdentifierClient
from client.bulk_command import bulk
from client.errors import CarIdentifierError
from client.identify_command import identify
from client.options import ApiKey, AsJson, Url, give_up
from client.output import console, json_lines, label_table

__all__ = ["app"]

app = typer.Typer(
    name="carid",
    help="""A photo of a car in; make, model and year out.

    `carid --install-completion` teaches your shell to complete these commands.""",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.add_typer(key_commands.app)
app.add_typer(model_commands.app)
app.command(
    epilog="Examples: `carid identify car.jpg`, `carid identify photos/ --csv > cars.csv`, "
    "`carid identify 'photos/**/*.jpg' --top-k 3 --jobs 16`"
)(identify)
app.command(
    epilog="Examples: `carid bulk photos/ answers/`, "
    "`carid bulk 'photos/**/*.jpg' answers/ --limit 100`, "
    "`carid bulk s3://bucket/photos answers/`"
)(bulk)


@app.command(epilog="Example: `carid labels --json`")
def labels(as_json: AsJson = False, url: Url = DEFAULT_URL, api_key: ApiKey = None) -> None:
    """List the car models that the server can tell apart."""
    with CarIdentifierClient(url, api_key=api_key) as client:
        try:
            table = client.labels()
        except CarIdentifierError as error:
            give_up(error)
    if as_json:
        print(json_lines(asdict(car) for car in table.labels))
    else:
        console().print(label_table(table))
