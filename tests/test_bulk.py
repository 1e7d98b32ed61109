"""`carid bulk`: a folder of Parquet files with each photo once, whatever happens on the way."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from factories import (
    BLUE,
    GREEN,
    RED,
    build_tiny_archive,
    build_tiny_archive_dir,
    encode,
    picture,
)
from live_stack import descendants, still_running

from bulk.errors import BulkError
from bulk.results import Results, RunSettings
from bulk.run import Job, run
from bulk.sources import list_photos, read_photo
from bulk.worker import SCHEMA

ROOT = Path(__file__).resolve().parent.parent
CARID = [sys.executable, "-c", "from client.cli import app; app()", "bulk"]
PATIENCE = 100

Finished = subprocess.CompletedProcess[str]


def bulk(*arguments: object) -> Finished:
    command = [*CARID, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE)


def rows(out: Path) -> dict[str, dict[str, Any]]:
    """All rows by the photo's file name; fails if a photo is told of twice."""
    found = pq.read_table(out / "answers").to_pylist() if (out / "answers").exists() else []
    by_name = {Path(row["photo"]).name: row for row in found}
    assert len(by_name) == len(found), "a photo has several rows"
    return by_name


def summary(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "summary.json").read_text()))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A .mar with a network that tells colours apart."""
    return build_tiny_archive(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty photos in two folders, three of them bad, and a text."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "deeper" / "still").mkdir(parents=True)
    for number in range(27):
        place = folder / "deeper/still" if number % 2 else folder
        colour = (RED, GREEN, BLUE)[number % 3]
        (place / f"car {number:02}#.jpg").write_bytes(encode(picture(colour)))
    (folder / "broken.jpg").write_bytes(encode(picture())[:300])
    (folder / "text.png").write_text("no picture")
    (folder / "empty.webp").touch()
    (folder / "notes.txt").write_text("not a photo")
    return folder


# --- which photos -----------------------------------------------------------------------------


def names(source: object, column: str | None = None) -> list[str]:
    return list_photos(str(source), column).to_pylist()


def test_folder_is_all_photos_in_it_by_their_suffix(photos: Path) -> None:
    found = names(photos)
    assert len(found) == len(set(found)) == 30
    assert str(photos / "deeper/still/car 01#.jpg") in found
    assert not any(name.endswith(".txt") for name in found)


def test_pattern_stays_in_its_folder_unless_it_says_otherwise(photos: Path) -> None:
    assert len(names(f"{photos}/car*.jpg")) == 14
    assert len(names(f"{photos}/**/car*.jpg")) == 27
    assert len(names(f"{photos}/deep*/still/car 0[13]#.jpg")) == 2
    assert names(f"{photos}/nothing*") == []


def test_linked_folders_give_no_photo_a_second_name(photos: Path) -> None:
    once = names(photos)
    links = [photos / "loop", photos / "another"]
    for link in links:
        link.symlink_to(photos)
    try:
        assert names(photos) == once
    finally:
        for link in links:
            link.unlink()


def test_a_name_that_is_no_text_is_told(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"")
    with pytest.raises(BulkError, match=r"caf.*rename that file"):
        list_photos(str(tmp_path))
    assert names(f"{tmp_path}/*.png") == []


def test_names_in_a_table_may_look_like_numbers(tmp_path: Path) -> None:
    table = tmp_path / "photos.csv"
    table.write_text("photo,year\n0001,1999\n0002,\n")
    assert names(table) == [str(tmp_path / "0001"), str(tmp_path / "0002")]


def test_listing_names_each_photo_once_relative_to_itself(tmp_path: Path) -> None:
    listing = tmp_path / "photos.txt"
    listing.write_text("a.jpg\n\nsub/../a.jpg\n/b c.jpg\ns3://bucket/d.jpg\n")
    expected = [str(tmp_path / "a.jpg"), "/b c.jpg", "s3://bucket/d.jpg"]
    assert names(listing) == expected
    table = pa.table({"id": [1, 2, 3, 4], "uri": ["a.jpg", None, "/b c.jpg", "s3://bucket/d.jpg"]})
    pq.write_table(table, tmp_path / "photos.parquet")
    assert names(tmp_path / "photos.parquet") == expected
    (tmp_path / "photos.csv").write_text("path,mine\nx.jpg,a.jpg\n")
    assert names(tmp_path / "photos.csv") == [str(tmp_path / "x.jpg")]
    assert names(tmp_path / "photos.csv", "mine") == [str(tmp_path / "a.jpg")]


@pytest.mark.parametrize("scheme", ["file://", "fsspec+file://"])
def test_uris_are_listed_and_read_like_paths(photos: Path, scheme: str) -> None:
    listed = names(f"{scheme}{photos}")
    assert listed == [f"{scheme}{name}" for name in names(photos)]
    assert read_photo(listed[-1]) == read_photo(names(photos)[-1])
    assert len(names(f"{scheme}{photos}/**/car*")) == 27


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("{photos}/none", "there is no "),
        ("{photos}/car 00#.jpg", "can't list "),
        ("nonsense://bucket/photos", "can't list "),
    ],
)
def test_source_that_is_none_says_so(photos: Path, source: str, told: str) -> None:
    with pytest.raises(BulkError, match=told):
        list_photos(source.format(photos=photos))


# --- whole runs -------------------------------------------------------------------------------


def test_every_photo_has_one_row_and_bad_ones_their_error(
    photos: Path, archive: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    listing = tmp_path / "list.txt"
    bad = [f"{photos}/gone.jpg", "nonsense://a/b.jpg"]
    listing.write_text("\n".join([*names(photos), *bad]))
    finished = bulk(listing, out, "--archive", archive, "--limit", 5, "--top-k", 2)
    assert finished.returncode == 0, finished.stderr
    # On a slow machine it tells how far it is.
    assert re.sub(r"^\d+ of 5 photos.*\n", "", finished.stderr, flags=re.MULTILINE) == ""
    assert len(rows(out)) == 5
    finished = bulk(listing, out, "--archive", archive, "--top-k", 2)
    assert finished.returncode == 0, finished.stderr
    told = rows(out)
    assert len(told) == 32
    codes = {name: row["error_code"] for name, row in told.items() if row["status"] == "refused"}
    assert codes == {
        "broken.jpg": "image_unreadable",
        "text.png": "unsupported_image_type",
        "empty.webp": "image_missing",
        "gone.jpg": "unreadable_file",
        "b.jpg": "unreadable_file",
    }
    answer = told["car 00#.jpg"]
    assert (answer["make"], answer["year"], answer["verdict"]) == ("Audi", 2012, "identified")
    assert answer["label"] == answer["predictions"][0]["label"] == "Audi TTS Coupe 2012"
    assert len(answer["predictions"]) == 2
    assert answer["region"] == {"left": 0, "top": 0, "right": 96, "bottom": 64, "source": "photo"}
    assert answer["model_version"] == "1.0"
    assert answer["decode_ms"] > 0
    counted = summary(out)
    assert counted["photos"] == 32
    assert counted["verdicts"] == {"identified": 27}
    assert counted["makes"] == {"Audi": 9, "Aston Martin": 9, "BMW": 9}
    assert counted["errors"]["unreadable_file"] == 2
    assert counted["last_run"]["photos"] == 27
    assert counted["last_run"]["missing"] == 0


def test_stopped_in_the_middle_it_goes_on_where_it_was(archive: Path, tmp_path: Path) -> None:
    count = 4_000
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    first = folder / "000000.jpg"
    first.write_bytes(encode(picture(size=(640, 480))))
    for number in range(1, count):
        (folder / f"{number:06}.jpg").hardlink_to(first)
    arguments = [str(folder), str(out), "--archive", str(archive)]

    # The whole group, with all that Ray started, as a machine's crash does.
    with begun(arguments, until=lambda: len(files(out)) == 1) as process:
        family = descendants(process.pid)
        os.killpg(process.pid, signal.SIGKILL)
    killed = rows(out)
    assert 0 < len(killed) < count, "it was not killed in the middle"
    # What a kill can leave half-written, and what a failing disk can.
    (out / "answers/.photos-000099.parquet.tmp").write_bytes(b"PAR1")
    damaged = files(out)[0]
    damaged.write_bytes(damaged.read_bytes()[:-100])

    # Ctrl-C loses nothing.
    left = len(files(out))  # the kill may have come a file late
    with begun(arguments, until=lambda: len(files(out)) > left) as process:
        family |= descendants(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, told
    interrupted = rows(out)
    missing = count - len(interrupted)
    assert missing > 0
    assert f"{missing:,} photos are missing. Give the same command again" in told
    assert summary(out)["last_run"]["missing"] == missing

    finished = bulk(*arguments)
    assert finished.returncode == 0, finished.stderr
    assert len(rows(out)) == count
    assert summary(out)["last_run"]["photos"] == missing
    assert [file.name for file in (out / "answers").glob(".*.tmp")] == []
    assert not still_running(family), "stopped runs left processes behind"


def files(out: Path) -> list[Path]:
    return sorted(out.glob("answers/photos-*.parquet"))


@contextmanager
def begun(arguments: list[str], until: Callable[[], bool]) -> Iterator[subprocess.Popen[str]]:
    """A run, in a process group of its own, at the moment when something has happened."""
    process = subprocess.Popen(
        [*CARID, *arguments],
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + PATIENCE
    while not until():
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail("the run did not come as far as that", pytrace=False)
        time.sleep(0.01)
    try:
        yield process
    finally:
        process.communicate(timeout=PATIENCE)


# --- refusals ---------------------------------------------------------------------------------


SETTINGS = RunSettings("1.0", "abc", "/photos", None, 5)


def begin(folder: Path, overwrite: bool = False, **changes: Any) -> list[str]:
    """Open a result folder, add a row if it has none, and return the photos it tells of."""
    with Results.opened(folder, replace(SETTINGS, **changes), overwrite) as results:
        if not len(results.photos()):
            results.add(pa.Table.from_pylist([{"photo": "a.jpg"}], SCHEMA))
            results.flush()
        return list(results.photos().to_pylist())


def test_files_that_only_look_like_answers_are_left_alone(tmp_path: Path) -> None:
    begin(tmp_path)
    copies = [
        tmp_path / "answers" / name for name in ("photos-copy.parquet", "photos-1.parquet.bak")
    ]
    for copy in copies:
        copy.touch()
    assert begin(tmp_path) == ["a.jpg"]
    begin(tmp_path, overwrite=True, top_k=1)
    assert all(copy.exists() for copy in copies)


def test_what_is_no_run_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"mine": 1}')
    with pytest.raises(BulkError, match="no description of a run"):
        begin(tmp_path, overwrite=True)
    assert (tmp_path / "run.json").read_text() == '{"mine": 1}'


@pytest.mark.parametrize(
    "change", [{"archive_sha256": "def"}, {"model_version": "1.1"}, {"top_k": 1}, {"source": "/b"}]
)
def test_answers_of_different_runs_are_not_mixed(tmp_path: Path, change: dict[str, Any]) -> None:
    assert begin(tmp_path) == begin(tmp_path) == ["a.jpg"]
    [(name, value)] = change.items()
    with pytest.raises(BulkError, match=f"{name} was .*, now {value}.*--overwrite"):
        begin(tmp_path, **change)
    assert begin(tmp_path) == ["a.jpg"]
    begin(tmp_path, overwrite=True, **change)
    assert json.loads((tmp_path / "run.json").read_text())[name] == value


def test_overwriting_never_touches_what_no_run_wrote(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(BulkError, match="holds other files"):
        begin(tmp_path, overwrite=True)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]
    out = tmp_path / "out"
    begin(out)
    (out / "mine.txt").write_text("precious")
    (out / "answers" / "mine.parquet").write_text("precious")
    begin(out, overwrite=True, top_k=1)
    assert (out / "mine.txt").exists()
    assert (out / "answers" / "mine.parquet").exists()


def test_two_runs_do_not_write_to_one_folder(tmp_path: Path) -> None:
    with (
        Results.opened(tmp_path, SETTINGS, overwrite=False),
        pytest.raises(BulkError, match="another run is writing"),
    ):
        begin(tmp_path)
    begin(tmp_path)


@pytest.mark.parametrize(
    ("source", "archive", "told"),
    [
        ("none", "none.mar", "can't use the archive .*none.mar"),
        ("none", __file__, "is no complete archive"),
        ("none", "model_store/car_identifier.mar", "there is no "),
        ("", "model_store/car_identifier.mar", "there are no photos in "),
    ],
)
def test_what_cannot_start_says_why(tmp_path: Path, source: str, archive: str, told: str) -> None:
    out = tmp_path / "out"
    job = Job(str(tmp_path / source), out, ROOT / archive)
    with pytest.raises(BulkError, match=told):
        run(job, lambda done, total: pytest.fail("it started"))
    assert not out.exists()


def test_archive_that_computes_something_else_does_not_start(tmp_path: Path) -> None:
    folder = build_tiny_archive_dir(tmp_path / "archive")
    with np.load(folder / "selfcheck.npz") as stored:
        np.savez(folder / "changed.npz", images=stored["images"], logits=stored["logits"] + 5)
    (folder / "changed.npz").replace(folder / "selfcheck.npz")
    archive = Path(shutil.make_archive(str(tmp_path / "changed"), "zip", folder))
    (tmp_path / "car.jpg").write_bytes(encode(picture()))
    with pytest.raises(BulkError, match="self-check failed"):
        run(Job(str(tmp_path), tmp_path / "out", archive), lambda done, total: None)
    assert not (tmp_path / "out").exists()


def test_command_tells_it_in_a_line(tmp_path: Path) -> None:
    finished = bulk(tmp_path, tmp_path / "out")
    assert finished.returncode == 2
    assert finished.stderr == f"there are no photos in {tmp_path}\n"
