"""What the launcher tells its reader."""

from __future__ import annotations

import sys
from pathlib import Path

from deploy.options import LOOPBACK, Options


def announce(options: Options, seconds: float, *, key_needed: bool) -> None:
    """Say what is ready, where everything is, and how to send the first photo."""
    what = "Car Identifier is" if len(options.services) == 2 else f"{_title(options)} is"
    ready = f"\n{what} ready, after {seconds:.0f} s"
    if options.logs_to_console:
        print("\n".join([ready, *_where(options, key_needed=key_needed)]), flush=True)
        return
    at = f", at {options.url}" if options.runs_gateway else ""
    lines = [f"{ready}{at}\n"]
    if options.runs_gateway:
        lines += [
            f"  web page        {options.url}/",
            f"  documentation   {options.url}/swagger/",
        ]
    if options.runs_torchserve:
        lines += [f"  TorchServe      {_ports_of_torchserve(options)}"]
    lines += [f"  tokens, logs    {shown(options.run_dir)}/"]
    if options.runs_gateway:
        lines += _first_photo(options, key_needed=key_needed)
    print("\n".join([*lines, "\nCtrl-C stops everything."]), flush=True)


def _where(options: Options, *, key_needed: bool) -> list[str]:
    """For the console of a container, whose reader is elsewhere.

    What its port is called outside, and what ends it, is not known in there.
    """
    lines = []
    if options.runs_gateway:
        host = f"[{options.host}]" if ":" in options.host else options.host
        key = ", with an API key" if key_needed else ""
        lines += [
            f"  gateway         listens on {host}:{options.port}{key}: photos at /v1/identify, "
            "documentation at /swagger/"
        ]
    if options.runs_torchserve:
        lines += [f"  TorchServe      {_ports_of_torchserve(options)}"]
    return lines


def _ports_of_torchserve(options: Options) -> str:
    return (
        f"inference :{options.inference_port}, management :{options.management_port}, "
        f"metrics :{options.metrics_port} on {LOOPBACK} only"
    )


def _title(options: Options) -> str:
    return "The gateway" if options.runs_gateway else "TorchServe"


def _first_photo(options: Options, *, key_needed: bool) -> list[str]:
    carid = shown(Path(sys.executable).with_name("carid"))
    address = "" if options.port == 8000 else f"CARID_URL={options.url} "
    # Where the client looks for a key, so that both lines can be pasted after one export.
    export, header = "", ""
    if key_needed:
        export = "  export CARID_API_KEY=…\n"
        header = '-H "X-API-Key: $CARID_API_KEY" '
    return [
        "\nSend a photo of a car:\n",
        f"{export}  curl {header}-F file=@photo.jpg {options.url}/v1/identify",
        f"  {address}{carid} identify photo.jpg",
    ]


def shown(path: Path) -> str:
    """The path as short as a reader in this directory needs it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
