"""Archives as files, and the command that answers photos without TorchServe."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from factories import BLUE, RED, TINY_LOCATOR, build_tiny_archive, encode, photo, scene

from handler.answer import Answer
from handler.archive import extract_archive
from handler.errors import ArchiveError
from handler.identifier import CarIdentifier


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return build_tiny_archive(tmp_path, locator=TINY_LOCATOR)


def test_an_archive_is_unpacked_and_cleaned_up(archive: Path) -> None:
    with extract_archive(archive) as directory:
        identifier = CarIdentifier.from_directory(directory)
    assert not directory.exists()
    # The engine holds what it needs.
    [answer] = identifier.identify([photo(BLUE)])
    assert isinstance(answer, Answer)
    assert answer.predictions[0].label.label == "BMW X5 SUV 2007"


def test_no_archive_and_a_broken_one_are_refused_in_words(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="no archive"), extract_archive(tmp_path / "none.mar"):
        pass
    archive.write_bytes(archive.read_bytes()[:500])
    with pytest.raises(ArchiveError, match="no complete archive"), extract_archive(archive):
        pass


def test_an_archive_cannot_write_outside_its_directory(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "evil.mar", "w") as file:
        file.writestr("../../escaped.txt", "x")
    with extract_archive(tmp_path / "evil.mar") as directory:
        assert [path.name for path in directory.rglob("*.txt")] == ["escaped.txt"]


def run_command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "handler", *map(str, arguments)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_prints_one_json_answer_per_photo(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "red.jpg").write_bytes(photo(RED))
    (tmp_path / "broken.jpg").write_bytes(b"text")
    result = run_command(
        tmp_path / "red.jpg", tmp_path / "broken.jpg", "--archive", archive, "--top-k", "2"
    )
    red, broken = map(json.loads, result.stdout.splitlines())
    assert red["label"] == "Audi TTS Coupe 2012"
    assert len(red["predictions"]) == 2
    assert broken["file"] == str(tmp_path / "broken.jpg")
    assert broken["error"]["code"] == "unsupported_image_type"
    assert result.returncode == 1


def test_the_command_reads_the_box_and_explains_it(archive: Path, tmp_path: Path) -> None:
    two = scene((RED, (0, 0, 320, 480)), (BLUE, (320, 0, 640, 480)))
    (tmp_path / "two.png").write_bytes(encode(two, "PNG"))
    result = run_command(
        *(tmp_path / "two.png", "--archive", archive, "--box", "320,0,640,480", "--explain")
    )
    answer = json.loads(result.stdout)
    assert result.returncode == 0
    assert (answer["label"], answer["region"]["source"]) == ("BMW X5 SUV 2007", "box")
    assert base64.b64decode(answer["heatmap"]["png"]).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--archive", "none.mar"), "no archive none.mar"),
        (("--top-k", "0"), "top_k must be 1 to 20"),
        (("--box", "1,2,3"), "box must be left,top,right,bottom"),
    ],
)
def test_the_command_says_in_one_line_what_is_wrong(options: tuple[str, ...], said: str) -> None:
    result = run_command("x.jpg", *options)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert said in result.stderr


def test_a_file_that_is_not_there_is_named_and_the_others_are_answered(
    archive: Path, tmp_path: Path
) -> None:
    (tmp_path / "red.jpg").write_bytes(photo(RED))
    result = run_command(tmp_path / "none.jpg", tmp_path / "red.jpg", "--archive", archive)
    assert f"can't read {tmp_path / 'none.jpg'}: No such file" in result.stderr
    assert json.loads(result.stdout)["label"] == "Audi TTS Coupe 2012"
    assert result.returncode == 1
