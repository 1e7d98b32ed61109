"""`make clean`: what it leaves, and when it leaves everything."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What `make clean` needs of the repository, with a run directory."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "deploy").mkdir()
    for name in ("__init__.py", "clean.py", "errors.py"):
        shutil.copy(ROOT / "deploy" / name, tmp_path / "deploy")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".run" / "tmp" / "models").mkdir(parents=True)
    for name in ("gateway.lock", "torchserve.log", "key_file.json", "tmp/link"):
        (tmp_path / ".run" / name).touch()
    return tmp_path


def make_clean(checkout: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "clean", f"PYTHON={sys.executable}"],
        cwd=checkout,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )


def test_keys_and_swaps_are_left_and_named(checkout: Path) -> None:
    kept = {"api_keys.json", "versions.json", "served.json"}
    for name in kept:
        (checkout / ".run" / name).write_text(name)
    cleaned = make_clean(checkout)
    assert cleaned.returncode == 0, cleaned.stderr
    assert {path.name: path.read_text() for path in (checkout / ".run").iterdir()} == {
        name: name for name in kept
    }
    assert "kept in .run: api_keys.json, versions.json, served.json (`rm -r .run`" in cleaned.stdout
    assert not (checkout / ".venv").exists()


def test_nothing_is_left_where_nothing_is_precious(checkout: Path) -> None:
    for _ in range(2):
        cleaned = make_clean(checkout)
        assert cleaned.returncode == 0, cleaned.stderr
        assert not (checkout / ".run").exists()
        assert "kept" not in cleaned.stdout


def test_nothing_is_taken_from_a_service_that_runs(checkout: Path) -> None:
    with (checkout / ".run" / "gateway.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as the launcher does
        cleaned = make_clean(checkout)
    assert cleaned.returncode != 0
    assert "is at work in .run (gateway.lock): stop it first" in cleaned.stderr
    assert (checkout / ".run" / "key_file.json").exists()
    assert (checkout / ".venv").exists()
