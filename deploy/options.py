"""Where the service listens and keeps its files: the options of `python -m deploy.serve`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOOPBACK = "127.0.0.1"
# Where a server that listens on all addresses is reached from this machine.
_NEAREST = {"0.0.0.0": LOOPBACK, "::": "::1"}  # noqa: S104 - compared with, never bound to


@dataclass(frozen=True)
class Options:
    """Where everything is and listens; the attributes are the command line's options.

    The files that the gateway is told about by others, its API keys and its canary, are named in
    the environment only, as for those who write them.

    TorchServe listens on loopback only, whatever the options say: its own surface must not be
    public, and the gateway, which may be, is on the same machine.
    """

    archive: Path
    run_dir: Path
    api_keys_file: Path
    canary_file: Path
    host: str
    port: int
    inference_port: int
    management_port: int
    metrics_port: int
    startup_timeout: float

    @property
    def url(self) -> str:
        """The gateway's address as seen from this machine."""
        host = _NEAREST.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def key_file(self) -> Path:
        """Where TorchServe writes its tokens: always the directory it runs in."""
        return self.run_dir / "key_file.json"

    @classmethod
    def parse(cls, arguments: Sequence[str], environ: Mapping[str, str]) -> Options:
        """Read the command line, with the environment for what it leaves out."""
        parser = argparse.ArgumentParser(
            prog="python -m deploy.serve",
            description="Run TorchServe and the gateway until Ctrl-C.",
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )

        def option(name: str, kind: type, default: object, text: str) -> None:
            variable = f"CARID_{name.upper()}"
            # argparse checks a default that is a string the way it checks an argument.
            value = environ.get(variable, str(default))
            parser.add_argument(
                f"--{name.replace('_', '-')}", type=kind, default=value, help=f"{text}; {variable}"
            )

        option("archive", Path, ROOT / "model_store" / "car_identifier.mar", "the model to serve")
        option("run_dir", Path, ROOT / ".run", "gets logs, tokens and the effective configuration")
        option("host", str, LOOPBACK, "the gateway's address")
        option("port", int, 8000, "the gateway's port")
        option("inference_port", int, 8080, "TorchServe's inference port")
        option("management_port", int, 8081, "TorchServe's management port")
        option("metrics_port", int, 8082, "TorchServe's metrics port")
        option("startup_timeout", float, 180.0, "seconds until readiness is given up")
        values = vars(parser.parse_args(arguments))
        for name in ("api_keys", "canary"):
            file = environ.get(f"CARID_{name.upper()}_FILE")
            values[f"{name}_file"] = Path(file) if file else values["run_dir"] / f"{name}.json"
        for name in ("archive", "run_dir", "api_keys_file", "canary_file"):
            values[name] = values[name].resolve()
        return cls(**values)
