"""The `carid` command, as typed into a shell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from gateway_fixtures import BROKEN_PHOTO, PHOTO, Gateway, identify, serving
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

ROOT = Path(__file__).resolve().parent.parent
CARID = [sys.executable, "-c", "from client.cli import app; app()"]
NOBODY = "http://127.0.0.1:9"

Carid = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def carid(gateway: Gateway) -> Carid:
    """Runs `carid` in a process of its own, its output in pipes."""

    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*CARID, *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, "CARID_URL": gateway.url, **environment},
            timeout=60,
        )

    return run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with two good photos, one of them deeper, a broken one and a text."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    (folder / "a.jpg").write_bytes(PHOTO)
    (folder / "broken.jpeg").write_bytes(BROKEN_PHOTO)
    (folder / "more" / "B.JPG").write_bytes(PHOTO)
    (folder / "notes.txt").write_text("no photo")
    return folder


def json_lines(text: str) -> list[dict[str, dict[str, object]]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_photo_is_answered_in_a_table(carid: Carid, photos: Path) -> None:
    done = carid("identify", photos / "a.jpg")
    assert done.returncode == 0, done.stderr
    row = next(line for line in done.stdout.splitlines() if "a.jpg" in line)
    assert row.split() == ["a.jpg", "Audi", "TTS", "Coupe", "2012", "90", "%", "identified"]


def test_one_bad_photo_does_not_stop_the_others(carid: Carid, photos: Path) -> None:
    done = carid("identify", photos / "broken.jpeg", photos / "missing.jpg", photos / "a.jpg")
    assert done.returncode == 1
    assert "the JPEG image is damaged" in done.stdout
    assert "No such file" in done.stdout
    assert "Audi TTS" in done.stdout


def test_folders_are_searched_for_photos(carid: Carid, photos: Path) -> None:
    done = carid("identify", photos, "--json")
    assert done.returncode == 1
    names = [Path(str(line["photo"])).name for line in json_lines(done.stdout)]
    assert names == ["a.jpg", "broken.jpeg", "B.JPG"]


def test_a_folder_without_photos_is_not_passed_over(carid: Carid, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = carid("identify", tmp_path / "empty")
    assert done.returncode == 1
    assert "no .heic" in done.stdout


def test_a_named_file_is_sent_whatever_its_name(carid: Carid, photos: Path) -> None:
    assert carid("identify", photos / "notes.txt").returncode == 0


def test_json_lines(carid: Carid, photos: Path) -> None:
    good, bad = json_lines(
        carid("identify", photos / "a.jpg", photos / "broken.jpeg", "--json").stdout
    )
    assert good["photo"] == str(photos / "a.jpg")
    assert good["answer"]["label"] == "Audi TTS Coupe 2012"
    assert bad["error"]["code"] == "image_unreadable"


def test_top_k_shows_further_guesses(carid: Carid, photos: Path) -> None:
    assert "Hummer" not in carid("identify", photos / "a.jpg").stdout
    assert "Hummer" in carid("identify", photos / "a.jpg", "--top-k", 2).stdout


def test_nothing_is_cut_when_piped(carid: Carid, photos: Path) -> None:
    names = [f"{letter * 120} [bold].jpg" for letter in "ab"]
    for name in names:
        (photos / name).write_bytes(PHOTO)
    output = carid("identify", *(photos / name for name in names)).stdout
    assert all(any(name in line for line in output.splitlines()) for name in names)
    assert "…" not in output


def test_photos_of_the_same_name_are_told_apart(carid: Carid, photos: Path) -> None:
    (photos / "more" / "a.jpg").write_bytes(PHOTO)
    output = carid("identify", photos / "a.jpg", photos / "more" / "a.jpg").stdout
    assert str(photos / "more" / "a.jpg") in output


def test_no_server_is_status_2_and_one_line(carid: Carid, photos: Path) -> None:
    done = carid("identify", photos / "a.jpg", "--url", NOBODY)
    assert done.returncode == 2
    assert "make serve" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_a_proxys_page_costs_its_photo_and_not_the_others(
    carid: Carid, gateway: Gateway, photos: Path
) -> None:
    (photos / "broken.jpeg").unlink()
    (photos / "large.jpg").write_bytes(PHOTO + b"large")
    (photos / "slow.jpg").write_bytes(PHOTO + b"slow")
    pages = {
        b"large": HTMLResponse("<h1>413</h1>", 413),
        b"slow": HTMLResponse("<h1>504</h1>", 504),
    }
    answer = identify(gateway, PHOTO).json()

    async def pass_on(request: Request) -> Response:
        return pages.get((await request.body()).removeprefix(PHOTO), JSONResponse(answer))

    app = Starlette()
    app.add_route("/v1/identify", pass_on, ["POST"])
    with serving(app) as url:
        done = carid("identify", photos, "--json", "--jobs", 1, CARID_URL=url)
    assert done.returncode == 1, done.stderr
    lines = {Path(str(line["photo"])).name: line for line in json_lines(done.stdout)}
    assert [name for name, line in lines.items() if "answer" in line] == ["a.jpg", "B.JPG"]
    assert "HTTP 504 without a reason" in str(lines["slow.jpg"]["error"]["message"])
    assert "Send a smaller photo" in str(lines["large.jpg"]["error"]["message"])


@pytest.mark.parametrize(
    "arguments", [["identify"], ["identify", "x.jpg", "--top-k", "99"], ["identfy", "x.jpg"]]
)
def test_wrong_usage_is_status_2(carid: Carid, arguments: list[str]) -> None:
    assert carid(*arguments).returncode == 2


def test_labels(carid: Carid) -> None:
    done = carid("labels")
    assert done.returncode == 0
    assert "Hummer" in done.stdout
    assert "2 car models, model version 1.0" in done.stdout
    assert json_lines(carid("labels", "--json").stdout)[1]["label"] == "Audi TTS Coupe 2012"


def test_the_table_fits_a_terminal_of_80_columns(gateway: Gateway, photos: Path) -> None:
    pty = pytest.importorskip("pty", reason="needs a pseudo-terminal")
    photo = photos / f"{'long' * 30}.jpg"
    photo.write_bytes(PHOTO)
    terminal, its_other_end = pty.openpty()
    subprocess.run(
        [*CARID, "identify", photo, photos / "broken.jpeg"],
        stdout=its_other_end,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        env={**os.environ, "CARID_URL": gateway.url, "COLUMNS": "80", "TERM": "dumb"},
        timeout=60,
    )
    lines = os.read(terminal, 100_000).decode().splitlines()
    os.close(its_other_end)
    os.close(terminal)
    assert max(len(line.rstrip()) for line in lines) <= 80
    # Folded, not cut.
    assert "".join(line.split()[0] for line in lines if line.strip()).count("long") == 30
