"""What tests of the launcher share: archives that pass for some, a full disk, failures."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from live_stack import (
    ROOT,
)

from benchmarks.service import free_ports
from client.errors import TorchServeError
from deploy.options import Options


def mar(path: Path, version: str) -> Path:
    """A zip file that passes for an archive of that version."""
    path.parent.mkdir(parents=True, exist_ok=True)
    manifest = {"model": {"modelName": "car_identifier", "modelVersion": version}}
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
    return path


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Says whether what is written from now on finds room; files can be made, and stay empty."""
    full = False
    write = os.fsync
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fsync(descriptor: int) -> None:
        if full:
            raise error
        write(descriptor)

    def refuse(function: Any) -> Any:
        def refused(*arguments: Any, **named: Any) -> Any:
            if full:
                raise error
            return function(*arguments, **named)

        return refused

    monkeypatch.setattr(os, "fsync", fsync)
    for owner, name in (
        (Path, "mkdir"),
        (Path, "write_text"),
        (Path, "touch"),
        (shutil, "copyfile"),
    ):
        monkeypatch.setattr(owner, name, refuse(getattr(owner, name)))

    def fill(now: bool) -> None:
        nonlocal full
        full = now

    return fill


def options_in(folder: Path, *more: str) -> Options:
    archive = folder / "bundled" / "car_identifier.mar"
    return Options.parse(["--run-dir", str(folder / "run"), "--archive", str(archive), *more], {})


class NoVersions:
    """Stands in for a TorchServe with nothing registered, which refuses everything."""

    def versions(self) -> list[object]:
        return []

    def version(self, _version: str) -> None:
        return None

    def register(self, _archive: str, _workers: int) -> None:
        raise TorchServeError("TorchServe says: no")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A zip file that passes for an archive until a worker loads it."""
    path = tmp_path / "car_identifier.mar"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("MAR-INF/MANIFEST.json", "{}")
    return path


def serve_and_fail(
    tmp_path: Path, command: tuple[str, ...] = ("-m", "deploy.serve"), **environ: str
) -> str:
    """Run the launcher to its end and return its one line of complaint."""
    names = ("PORT", "INFERENCE_PORT", "MANAGEMENT_PORT", "METRICS_PORT")
    ports = zip(names, free_ports(len(names)), strict=True)
    settings = {f"CARID_{name}": str(port) for name, port in ports}
    settings["CARID_RUN_DIR"] = str(tmp_path / "run")
    finished = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, **settings, **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert finished.returncode == 1
    assert finished.stdout == "", "nothing was started"
    assert finished.stderr.startswith("error: ")
    assert finished.stderr.count("\n") == 1, finished.stderr
    return finished.stderr


def settings(properties: str) -> dict[str, str]:
    lines = (line.partition("=") for line in properties.splitlines() if not line.startswith("#"))
    return {key: value for key, _, value in lines if key}
