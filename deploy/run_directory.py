"""The run directory: who may use it, what lies in it, and where temporary files go."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from deploy.errors import ServeError
from deploy.options import GATEWAY, Options

# A socket's path may have 107 bytes, and TorchServe adds `/.ts.sock.9000` and the like.
_LONGEST_PATH = 80


@contextlib.contextmanager
def exclusive_run_dir(options: Options) -> Iterator[None]:
    """Make the run directory and keep a second launcher from overwriting the tokens in it.

    Each service has a lock of its own, so that two launchers can share the directory, one for
    TorchServe and one for the gateway. A lock ends with its process, however that ends.

    Raises:
        ServeError: another launcher runs one of these services, or the directory can't be written.
    """
    run_dir = options.run_dir
    with contextlib.ExitStack() as held:
        for service in options.services:
            with writing_to(run_dir):
                run_dir.mkdir(parents=True, exist_ok=True)
                lock = held.enter_context(_lock_file(run_dir, service).open("w"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ServeError(
                    f"already serving from {run_dir}: stop that one, or choose another directory "
                    "with CARID_RUN_DIR (and other ports)"
                ) from error
        yield


@contextlib.contextmanager
def writing_to(run_dir: Path) -> Iterator[None]:
    """Tell what goes wrong with writing there in one line.

    Raises:
        ServeError: it can't be written, as on a full disk.
    """
    try:
        yield
    except OSError as error:
        raise ServeError(
            f"can't write to the run directory {run_dir} ({error.strerror}): make room there, make "
            f"it writable for user {os.getuid()}, or name another with CARID_RUN_DIR"
        ) from error


def gateway_is_up(run_dir: Path) -> bool:
    """Whether a launcher that runs the gateway holds the directory, this one or another."""
    with contextlib.suppress(FileNotFoundError), _lock_file(run_dir, GATEWAY).open("r") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _lock_file(run_dir: Path, service: str) -> Path:
    return run_dir / f"{service}.lock"


@contextlib.contextmanager
def temporary_directory(options: Options) -> Iterator[Path]:
    """A private directory for what TorchServe keeps in the machine's one.

    Its pid file and its workers' sockets have fixed names there, so that two TorchServes would
    take each other's; and the archives it unpacks would stay. It lies in the run directory, where
    a launcher that was killed leaves nothing behind for good; only if the path would be too long
    for a socket it lies in the machine's own.

    Raises:
        ServeError: it can't be made.
    """
    # Of two launchers that share the run directory each has its own: one starts and ends alone.
    path = options.run_dir / ("tmp" if options.runs_torchserve else "tmp-gateway")
    if len(os.fsencode(path)) > _LONGEST_PATH:
        try:
            made = tempfile.TemporaryDirectory(prefix="carid-", ignore_cleanup_errors=True)
        except OSError as error:
            raise ServeError(
                f"can't make a directory for temporary files ({error.strerror}): make room, or "
                "name a writable folder with TMPDIR"
            ) from error
        with made as elsewhere:
            yield Path(elsewhere)
        return
    shutil.rmtree(path, ignore_errors=True)
    with writing_to(options.run_dir):
        path.mkdir(mode=0o700)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def write_service_file(options: Options) -> None:
    """Tell `carid` and health checks where the services are that are started here.

    `service.json` holds gateway_url, inference_url, management_url, metrics_url and model_store.
    Of two launchers that share a run directory each writes what it knows.

    Raises:
        ServeError: it can't be written.
    """
    known = {}
    if options.runs_gateway:
        known["gateway_url"] = options.url
    if options.runs_torchserve:
        known |= {
            "inference_url": options.inference_url,
            "management_url": options.management_url,
            "metrics_url": options.metrics_url,
            "model_store": str(options.model_store),
        }
    path = options.run_dir / "service.json"
    with writing_to(options.run_dir):
        directory = os.open(options.run_dir, os.O_RDONLY)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            write_json(path, {**read_json(path), **known})
        finally:
            os.close(directory)


def read_json(path: Path) -> dict[str, Any]:
    """An object that `write_json` wrote; empty if there is none, or none that can be read."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object; a reader sees the old one or the new one, also after a power cut.

    Raises:
        OSError: it can't be written, as on a full disk; the old one is still there.
    """
    staged = path.with_suffix(".json.new")
    with staged.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    staged.replace(path)
