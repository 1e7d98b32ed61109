"""The real service under measurement: started here on free ports, or one that runs already."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.process_group import ProcessGroup

__all__ = ["BenchmarkError", "Service", "free_ports", "serve_command", "started"]

_ROOT = Path(__file__).resolve().parents[1]
_START_TIMEOUT = 200.0
_STOP_PATIENCE = 40.0
_MODEL = "car_identifier"


class BenchmarkError(Exception):
    """The run can't go on; the message says why."""


@dataclass(frozen=True, slots=True)
class Service:
    """Addresses of a running service, without a final slash.

    Attributes:
        gateway: of the public API.
        inference: of TorchServe's predictions.
        management: of TorchServe's workers.
        key_file: TorchServe's tokens.
    """

    gateway: str
    inference: str
    management: str
    key_file: Path

    @property
    def predictions(self) -> str:
        """Where TorchServe takes a photo."""
        return f"{self.inference}/predictions/{_MODEL}"

    def key(self, kind: str) -> str:
        """The `Authorization` header for TorchServe's `inference` or `management` API."""
        keys = json.loads(self.key_file.read_text())
        return f"Bearer {keys[kind]['key']}"

    def workers(self) -> list[int]:
        """Process ids of the workers, as TorchServe knows them."""
        request = urllib.request.Request(  # noqa: S310  (our own address)
            f"{self.management}/models/{_MODEL}", headers={"Authorization": self.key("management")}
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=30) as response:
            [model] = json.load(response)
        return sorted(worker["pid"] for worker in model["workers"])


@contextmanager
def started(archive: Path, run_dir: Path) -> Iterator[Service]:
    """Run `deploy.serve` until the end of the `with` block.

    Raises:
        BenchmarkError: it did not become ready.
    """
    ports = free_ports(4)
    process = ProcessGroup(
        "the service",
        [sys.executable, *serve_command(archive, run_dir, ports)],
        cwd=_ROOT,
        log=run_dir / "serve.out",
        env={"PYTHONPATH": os.environ.get("PYTHONPATH", "")},
    )
    gateway, inference, management, _ = (f"http://127.0.0.1:{port}" for port in ports)
    try:
        deadline = time.monotonic() + _START_TIMEOUT
        while " is ready" not in (run_dir / "serve.out").read_text():
            if process.exit_code is not None or time.monotonic() > deadline:
                raise BenchmarkError(f"the service did not start:\n{process.log_end()}")
            time.sleep(0.2)
        yield Service(gateway, inference, management, run_dir / "key_file.json")
    finally:
        process.stop(_STOP_PATIENCE)


def serve_command(archive: Path, run_dir: Path, ports: list[int]) -> list[str]:
    """Python's arguments to serve an archive.

    Args:
        archive: the .mar.
        run_dir: for whatever the service writes.
        ports: of the gateway, and of TorchServe's inference, management and metrics.
    """
    names = ("port", "inference-port", "management-port", "metrics-port")
    options = {"archive": archive, "run-dir": run_dir, **dict(zip(names, ports, strict=True))}
    return ["-m", "deploy.serve", *(f"--{name}={value}" for name, value in options.items())]


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on, all different."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
