"""Commands of the documentation, run as they stand there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from gateway_fixtures import PHOTO, Gateway, StandInTorchServe

DOCS = Path(__file__).resolve().parent.parent / "docs"
PHOTO_BYTES = 300_000  # more than an argument of a command can hold


def command(page: str, beginning: str, **names: str) -> str:
    """The one command of a page that begins so; what it leaves to the reader is filled in."""
    lines = (DOCS / page).read_text("utf-8").splitlines()
    [found] = [line.removeprefix("$ ") for line in lines if line.startswith(f"$ {beginning}")]
    for name, value in names.items():
        found = found.replace(name, value)
    return found


def run(line: str, folder: Path) -> str:
    done = subprocess.run(
        ["sh", "-ec", line], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("kept", [True, False], ids=["all files", "keys only"])
def test_a_backup_of_relative_folders_goes_back_into_others(tmp_path: Path, *, kept: bool) -> None:
    state = {"api_keys.json": "keys"} | ({"versions.json": "1", "served.json": "2"} if kept else {})
    for folder in ("run", "store", "run2", "store2"):
        (tmp_path / folder).mkdir()
    for name, text in {**state, "key_file.json": "of this start"}.items():
        (tmp_path / "run" / name).write_text(text)
    (tmp_path / "store" / "car_identifier.mar").write_text("archive")
    run(command("operations.md", "tar czf", RUN_DIR="run", MODEL_STORE="store"), tmp_path)
    run(command("operations.md", "tar xzf car-identifier.tgz -C RUN", RUN_DIR="run2"), tmp_path)
    run(command("operations.md", "tar xzf car-identifier.tgz -C M", MODEL_STORE="store2"), tmp_path)
    assert {path.name: path.read_text() for path in (tmp_path / "run2").iterdir()} == state
    assert [path.name for path in (tmp_path / "store2").iterdir()] == ["car_identifier.mar"]


def curl_version() -> tuple[int, ...]:
    if not shutil.which("curl"):
        return (0,)
    told = subprocess.run(["curl", "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(map(int, re.findall(r"\d+", told)[:2]))


@pytest.mark.skipif(curl_version() < (7, 82), reason="needs a curl that knows --json")
@pytest.mark.parametrize("beginning", ["curl -F file=@car.jpg 'loc", "curl -H 'Con", "base64"])
def test_a_photo_of_any_size_is_sent(
    gateway: Gateway, torchserve: StandInTorchServe, tmp_path: Path, beginning: str
) -> None:
    photo = PHOTO + bytes(PHOTO_BYTES)
    (tmp_path / "car.jpg").write_bytes(photo)
    address = {"localhost:8000": gateway.url}
    answer = json.loads(run(command("gateway.md", beginning, **address), tmp_path))
    assert answer["make"] == "Audi", answer
    assert [sent for _, sent in torchserve.photos] == [photo]
