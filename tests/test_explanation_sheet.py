"""The sheet that shows where an archive looks, drawn from a real (tiny) archive."""

from __future__ import annotations

from pathlib import Path

import pytest
from factories import BLUE, RED, build_tiny_archive, encode, photo, picture
from PIL import Image

from lightning_train.cli import main


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return build_tiny_archive(tmp_path)


def draw(archive: Path, photos: Path, out: Path, *more: str) -> int:
    options = ["--archive", str(archive), "--photos", str(photos), "--out", str(out)]
    return main(["show-explanations", *options, *more])


def test_photos_of_any_shape_and_broken_ones_are_drawn(archive: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(photo(RED))
    (folder / "b.png").write_bytes(encode(picture(BLUE, (20, 300)), "PNG"))
    (folder / "c.jpg").write_bytes(b"no photo")
    (folder / "notes.txt").write_text("not looked at")
    assert draw(archive, folder, tmp_path / "new" / "sheet.png") == 0
    with Image.open(tmp_path / "new" / "sheet.png") as sheet:
        assert sheet.width > sheet.height
        colours = {colour for _, colour in sheet.convert("RGB").getcolors(1 << 24) or []}
    # One colour speaks for its class everywhere, so red lies over all of it.
    assert any(red > 200 and max(green, blue) < 30 for red, green, blue in colours)
    assert any(red > 140 and green < 30 and 50 < blue < 90 for red, green, blue in colours)


def test_what_can_be_answered_can_be_drawn(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.heic").write_bytes(encode(picture(RED, (300, 200)), "HEIF"))
    # Pillow by itself can't read HEIC; to write some, the tests have taught it to.
    monkeypatch.setattr(Image, "ID", [kind for kind in Image.ID if kind != "HEIF"])
    assert draw(archive, tmp_path / "a.heic", tmp_path / "sheet.png") == 0
    with Image.open(tmp_path / "sheet.png") as image:
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 24) or []}
    assert any(red > 200 and max(green, blue) < 30 for red, green, blue in colours)


def test_of_many_photos_some_are_drawn(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(9):
        (folder / f"{number}.jpg").write_bytes(photo(RED))
    assert draw(archive, folder, tmp_path / "two.png", "--count", "2") == 0
    assert draw(archive, folder / "3.jpg", tmp_path / "one.png") == 0
    with Image.open(tmp_path / "two.png") as two, Image.open(tmp_path / "one.png") as one:
        assert two.width == pytest.approx(2 * one.width, abs=2)
    assert f"written to {tmp_path / 'one.png'}" in capsys.readouterr().out


def test_no_photos_is_one_line(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert draw(archive, tmp_path / "empty", tmp_path / "sheet.png") == 1
    assert "error: no photos in" in capsys.readouterr().err
