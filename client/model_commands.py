"""`carid models`: the versions behind the service, changed while it serves."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from client.errors import CarIdentifierError, VersionError
from client.management import TorchServe
from client.output import console, json_lines, version_table
from client.run_dir import RunDir
from client.versions import Goldens, Versions

__all__ = ["app"]

_FAILED, _INTERRUPTED = 1, 130

app = typer.Typer(
    name="models",
    help="""List, swap and try out versions of the model, while the service runs.

    Runs on the machine of the service: TorchServe's management answers on loopback only.

    A restarted service serves its archive again (CARID_ARCHIVE), whatever was swapped before,
    unless it runs with CARID_KEEP_VERSIONS=true.""",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

RunDirOption = Annotated[
    Path,
    typer.Option(
        "--run-dir", envvar="CARID_RUN_DIR", help="The run directory of the service.", metavar="DIR"
    ),
]
ManagementUrl = Annotated[
    str | None,
    typer.Option(
        "--management-url",
        envvar="CARID_MANAGEMENT_URL",
        help="TorchServe's management. [default: what the run directory says, or "
        "http://127.0.0.1:8081]",
        metavar="URL",
    ),
]
InferenceUrl = Annotated[
    str | None,
    typer.Option(
        "--inference-url",
        envvar="CARID_INFERENCE_URL",
        help="TorchServe's predictions. [default: what the run directory says, or "
        "http://127.0.0.1:8080]",
        metavar="URL",
    ),
]
ModelStore = Annotated[
    Path | None,
    typer.Option(
        "--model-store",
        envvar="CARID_MODEL_STORE",
        help="The folder of archives that TorchServe was started with. [default: what the run "
        "directory says]",
        metavar="DIR",
    ),
]
Wanted = Annotated[
    str,
    typer.Argument(
        help="An archive (.mar), or the version of one in the model store.",
        metavar="PATH_OR_VERSION",
    ),
]
Photos = Annotated[
    Path | None,
    typer.Option(
        "--photos",
        envvar="CARID_GOLDEN_PHOTOS",
        help="Folder of golden photos, which both versions are asked about.",
        metavar="FOLDER",
    ),
]
MinAgreement = Annotated[
    float,
    typer.Option(
        "--min-agreement",
        min=0.0,
        max=1.0,
        help="Of the golden photos that the old version identifies, the share that the new one "
        "must identify as the same car.",
    ),
]
Workers = Annotated[int, typer.Option("--workers", min=1, help="How many workers it gets.")]


@app.callback()
def connect(
    context: typer.Context,
    run_dir: RunDirOption = Path(".run"),
    management_url: ManagementUrl = None,
    inference_url: InferenceUrl = None,
    model_store: ModelStore = None,
) -> None:
    """Say where the service is; its run directory is enough."""
    service = RunDir(run_dir)
    torchserve = TorchServe(
        management_url or service.management_url,
        inference_url or service.inference_url,
        service.key_file,
    )
    context.obj = Versions(torchserve, service, model_store or service.model_store, _tell)


@app.command(name="list", epilog="Example: `carid models list`")
def list_versions(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
) -> None:
    """List the registered versions."""
    versions: Versions = context.obj
    with _told():
        found = versions.torchserve.versions()
        try:
            canary = versions.run_dir.read_canary()
        except VersionError as error:
            _warn(str(error))
            canary = None
        if as_json:
            shares = dict([canary]) if canary else {}
            print(json_lines({**asdict(it), "canary": shares.get(it.version)} for it in found))
        else:
            console().print(version_table(found, canary))


@app.command(epilog="Example: `carid models register model_store/car_identifier-1.2.mar`")
def register(context: typer.Context, wanted: Wanted, workers: Workers = 1) -> None:
    """Register a version beside the default one; it answers whoever names it."""

    def run(versions: Versions) -> None:
        version, archive = versions.find(wanted)
        versions.register(archive, version, workers)

    _change(context, run)


@app.command(
    epilog="Examples: `carid models swap new/car_identifier.mar --photos golden/`, "
    "`carid models swap 1.2 --min-agreement 0.95`"
)
def swap(
    context: typer.Context,
    wanted: Wanted,
    photos: Photos = None,
    min_agreement: MinAgreement = 0.9,
) -> None:
    """Serve another version, without losing a request.

    Its workers check themselves; golden photos are asked of both versions; then it becomes the
    default, and the old one is removed when it has answered all that it was asked. If a step
    fails, the old version goes on serving. After an interruption, run it again.
    """
    _change(context, lambda versions: versions.swap(wanted, Goldens(photos, min_agreement)))


@app.command(epilog="Example: `carid models rollback`")
def rollback(context: typer.Context) -> None:
    """Serve the version before the last swap again."""
    _change(context, Versions.rollback)


@app.command(epilog="Example: `carid models scale 2 --version 1.2`")
def scale(
    context: typer.Context,
    workers: Annotated[int, typer.Argument(min=1, help="How many workers it shall have.")],
    version: Annotated[
        str | None, typer.Option("--version", help="Which version. [default: the default one]")
    ] = None,
) -> None:
    """Give a version more workers, or fewer.

    A worker that goes may fail the batch that it is about to answer: its photos are told to try
    again. A restart of the service gives it as many as its archive says.
    """
    _change(context, lambda versions: versions.scale(workers, version))


@app.command(epilog="Example: `carid models unregister 1.2`")
def unregister(
    context: typer.Context, version: Annotated[str, typer.Argument(help="Which version.")]
) -> None:
    """Remove a version once it has answered all that it was asked; its archive stays."""
    _change(context, lambda versions: versions.remove(version))


@app.command(epilog="Examples: `carid models canary 1.2 --share 0.1`, `carid models canary --off`")
def canary(
    context: typer.Context,
    wanted: Annotated[
        str | None,
        typer.Argument(help="An archive (.mar), or a version.", metavar="[PATH_OR_VERSION]"),
    ] = None,
    share: Annotated[
        float, typer.Option("--share", min=0.0, max=1.0, help="Of the requests, 0 to 1.")
    ] = 0.1,
    off: Annotated[bool, typer.Option("--off", help="Send it no more requests.")] = False,
) -> None:
    """Send a share of the requests to a version; the gateway compares its answers.

    `GET /v1/models` counts how many were compared and how many agreed.
    """
    if off == (wanted is not None):
        raise typer.BadParameter("name a version, or --off")

    _change(context, lambda versions: versions.canary(wanted, share))


def _change(context: typer.Context, run: Callable[[Versions], None]) -> None:
    """Run one change of versions, no other meanwhile."""
    versions: Versions = context.obj
    with _told(), versions.run_dir.only_one_at_a_time():
        run(versions)


@contextmanager
def _told() -> Iterator[None]:
    """Errors as one line, with an exit status."""
    try:
        yield
    except CarIdentifierError as error:
        _give_up(str(error), _FAILED)
    except KeyboardInterrupt:
        _give_up("interrupted: the same command goes on where this one stopped", _INTERRUPTED)


def _tell(line: str) -> None:
    print(line, flush=True)


def _warn(line: str, style: str = "yellow") -> None:
    Console(stderr=True).print(Text(line, style), soft_wrap=True)


def _give_up(line: str, status: int) -> NoReturn:
    sys.stdout.flush()
    _warn(line, "red")
    raise typer.Exit(status)
