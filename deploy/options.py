"""What runs, where it listens and keeps its files: the options of `python -m deploy.serve`."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
LOOPBACK = "127.0.0.1"
TORCHSERVE, GATEWAY = "torchserve", "gateway"
# Where a server that listens on all addresses is reached from this machine.
_NEAREST = {"0.0.0.0": LOOPBACK, "::": "::1"}  # noqa: S104 - compared with, never bound to
_SWITCH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass(frozen=True)
class Options:
    """What runs and where; the attributes are the command line's options.

    The file of API keys, which others write, is named in the environment only, as it is for them.

    TorchServe listens on loopback only, whatever the options say: its own surface must not be
    public, and the gateway, which may be, is on the same machine.
    """

    archive: Path
    model_store: Path
    run_dir: Path
    api_keys_file: Path
    services: tuple[str, ...]
    logs: str
    keep_versions: bool
    host: str
    port: int
    inference_port: int
    management_port: int
    metrics_port: int
    startup_timeout: float
    unready_timeout: float
    drain_s: float

    @property
    def url(self) -> str:
        """The gateway's address as seen from this machine."""
        host = _NEAREST.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def inference_url(self) -> str:
        """Where TorchServe takes photos."""
        return f"http://{LOOPBACK}:{self.inference_port}"

    @property
    def management_url(self) -> str:
        """Where TorchServe is managed."""
        return f"http://{LOOPBACK}:{self.management_port}"

    @property
    def metrics_url(self) -> str:
        """Where TorchServe shows its metrics."""
        return f"http://{LOOPBACK}:{self.metrics_port}"

    @property
    def key_file(self) -> Path:
        """Where TorchServe writes its tokens: always the directory it runs in."""
        return self.run_dir / "key_file.json"

    @property
    def canary_file(self) -> Path:
        """Where `carid models` says which version is tried out: always the run directory."""
        return self.run_dir / "canary.json"

    @property
    def runs_torchserve(self) -> bool:
        """Whether TorchServe is started here."""
        return TORCHSERVE in self.services

    @property
    def runs_gateway(self) -> bool:
        """Whether the gateway is started here."""
        return GATEWAY in self.services

    @property
    def logs_to_console(self) -> bool:
        """Whether the services' lines are printed, and kept nowhere."""
        return self.logs == "console"

    @classmethod
    def parse(cls, arguments: Sequence[str], environ: Mapping[str, str]) -> Options:
        """Read the command line, with the environment for what it leaves out."""
        parser = _Parser(
            prog="python -m deploy.serve",
            description="Run TorchServe and the gateway until Ctrl-C.",
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
            epilog="The gateway has settings of its own, all of them CARID_… too: see "
            "gateway/settings.py.",
        )

        def option(name: str, kind: Callable[[str], object], default: object, text: str) -> None:
            variable = f"CARID_{name.upper()}"
            # Empty counts as not set: files of variables are full of lines with nothing after `=`.
            # argparse checks a default that is a string the way it checks an argument.
            value = environ.get(variable) or str(default)
            parser.add_argument(
                f"--{name.replace('_', '-')}", type=kind, default=value, help=f"{text}; {variable}"
            )

        option("archive", Path, ROOT / "model_store" / "car_identifier.mar", "the model to serve")
        option(
            "model_store", str, "",
            "folder that TorchServe takes archives from; the archive is copied there. Not set: "
            "the folder it lies in",
        )  # fmt: skip
        option("run_dir", Path, ROOT / ".run", "gets logs, tokens and the effective configuration")
        option(
            "services", _services, f"{TORCHSERVE},{GATEWAY}",
            "what runs here, both or one; two that share a run directory and loopback make a whole",
        )  # fmt: skip
        option(
            "logs", _logs, "files",
            "files: in the run directory; console: printed, with the service's name before each "
            "line, and kept nowhere",
        )  # fmt: skip
        option(
            "keep_versions", _switch, "false",
            "serve again after a restart what was served before it, whoever registered it",
        )  # fmt: skip
        option("host", str, LOOPBACK, "the gateway's address")
        option("port", _port, 8000, "the gateway's port")
        option("inference_port", _port, 8080, "TorchServe's inference port")
        option("management_port", _port, 8081, "TorchServe's management port")
        option("metrics_port", _port, 8082, "TorchServe's metrics port")
        option("startup_timeout", _seconds, 180.0, "seconds until readiness is given up")
        option(
            "unready_timeout", _seconds, 0.0,
            "end with an error if what was ready is not for so many seconds; 0: never",
        )  # fmt: skip
        option(
            "drain_s", _seconds, 0.0,
            "seconds the gateway still answers after the signal to stop, for balancers to notice",
        )  # fmt: skip
        values = vars(parser.parse_args(arguments))
        store = values["model_store"]
        values["model_store"] = Path(store) if store else values["archive"].resolve().parent
        keys = environ.get("CARID_API_KEYS_FILE")
        values["api_keys_file"] = Path(keys) if keys else values["run_dir"] / "api_keys.json"
        for name in ("archive", "model_store", "run_dir", "api_keys_file"):
            values[name] = values[name].resolve()
        return cls(**values)


class _Parser(argparse.ArgumentParser):
    """One that says what is wrong in a line, as all that keeps the service from starting."""

    def error(self, message: str) -> NoReturn:
        """End the process with status 2."""
        match = re.match(r"argument --([\w-]+): ", message)
        if match:  # most are set by their variables
            variable = f"CARID_{match[1].replace('-', '_').upper()}"
            message = f"--{match[1]} or {variable}: {message[match.end() :]}"
        self.exit(2, f"error: {message}\n")


def _port(text: str) -> int:
    try:
        port = int(text)
    except ValueError:
        port = 0
    if not 1 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port, which is a number from 1 to 65535")
    return port


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds) or seconds < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 0 up")
    return seconds


def _services(text: str) -> tuple[str, ...]:
    named = {name.strip() for name in text.split(",") if name.strip()}
    if not named or not named <= {TORCHSERVE, GATEWAY}:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither {TORCHSERVE}, {GATEWAY} nor both, separated by a comma"
        )
    return tuple(name for name in (TORCHSERVE, GATEWAY) if name in named)


def _logs(text: str) -> str:
    if text not in ("files", "console"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither files nor console")
    return text


def _switch(text: str) -> bool:
    try:
        return _SWITCH[text.lower()]
    except KeyError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false") from None
