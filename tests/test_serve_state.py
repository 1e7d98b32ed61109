"""What the launcher keeps in its model store, and serves again."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from serve_fixtures import NoVersions, mar, options_in

from client.management import TorchServe
from client.run_dir import RunDir
from client.versions import Versions
from deploy import model_store
from deploy.errors import ServeError
from deploy.model_store import KeptVersions, archive_version, put_archive_into_store
from deploy.options import Options
from deploy.torchserve import Served

# --- options ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value"),
    [("--services", "worker"), ("--services", ""), ("--logs", "syslog"), ("--keep-versions", "x")],
)
def test_a_setting_that_is_none_is_told_by_its_name(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        Options.parse([option, value], {})
    assert option in capsys.readouterr().err.splitlines()[-1]


def test_both_services_run_unless_one_is_named() -> None:
    assert Options.parse([], {}).services == ("torchserve", "gateway")
    one = Options.parse([], {"CARID_SERVICES": "gateway"})
    assert (one.runs_gateway, one.runs_torchserve) == (True, False)


def test_torchserve_takes_archives_from_where_the_archive_lies_unless_told_otherwise() -> None:
    assert Options.parse(["--archive", "/models/a.mar"], {}).model_store == Path("/models")
    told = Options.parse(["--archive", "/models/a.mar"], {"CARID_MODEL_STORE": "/store"})
    assert told.model_store == Path("/store")


# --- the model store ----------------------------------------------------------------------------


def test_the_archive_is_put_into_the_model_store_and_a_newer_image_replaces_it(
    tmp_path: Path,
) -> None:
    options = options_in(tmp_path, "--model-store", str(tmp_path / "store"))
    stored = tmp_path / "store" / "car_identifier.mar"
    for version in ("1.0", "1.1"):
        archive = mar(options.archive, version)
        put_archive_into_store(options)
        assert stored.read_bytes() == archive.read_bytes()

    # The version before stays, where a rollback looks for it.
    before = stored.with_name("car_identifier-1.0.mar")
    assert set(stored.parent.iterdir()) == {stored, before}
    assert archive_version(before) == "1.0"
    torchserve = cast(TorchServe, NoVersions())
    versions = Versions(torchserve, RunDir(tmp_path / "run"), stored.parent)
    assert versions.find("1.0") == ("1.0", before.name)


def test_another_build_of_the_same_version_or_a_damaged_file_is_replaced(tmp_path: Path) -> None:
    options = options_in(tmp_path, "--model-store", str(tmp_path / "store"))
    mar(options.archive, "1.0")
    stored = tmp_path / "store" / "car_identifier.mar"
    with zipfile.ZipFile(mar(stored, "1.0"), "a") as file:
        file.writestr("more", "")
    put_archive_into_store(options)
    stored.write_bytes(b"damaged")
    put_archive_into_store(options)
    mar(stored, "../1.0")  # nothing that may become part of a file's name
    put_archive_into_store(options)
    assert archive_version(stored) == "1.0"
    assert [path.name for path in stored.parent.iterdir()] == ["car_identifier.mar"]


def test_what_a_swap_put_into_the_store_is_not_replaced_by_the_image_before(tmp_path: Path) -> None:
    options = options_in(tmp_path, "--model-store", str(tmp_path / "store"))
    mar(options.archive, "1.1")
    mar(tmp_path / "store" / "car_identifier.mar", "1.0")
    with zipfile.ZipFile(mar(tmp_path / "store" / "car_identifier-1.0.mar", "1.0"), "a") as file:
        file.writestr("more", "")
    before = (tmp_path / "store" / "car_identifier-1.0.mar").read_bytes()
    put_archive_into_store(options)
    assert (tmp_path / "store" / "car_identifier-1.0.mar").read_bytes() == before
    assert archive_version(tmp_path / "store" / "car_identifier.mar") == "1.1"


def test_a_full_disk_leaves_the_store_as_it_was(
    tmp_path: Path, full_disk: Callable[[bool], None]
) -> None:
    options = options_in(tmp_path, "--model-store", str(tmp_path / "store"))
    mar(tmp_path / "store" / "car_identifier.mar", "1.0")
    mar(options.archive, "1.1")
    full_disk(True)
    with pytest.raises(ServeError, match=r"No space left.*make room"):
        put_archive_into_store(options)
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["car_identifier.mar"]


def test_a_model_store_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    options = options_in(tmp_path, "--model-store", str(tmp_path / "file" / "store"))
    mar(options.archive, "1.0")
    with pytest.raises(ServeError, match="CARID_MODEL_STORE"):
        put_archive_into_store(options)


def kept(tmp_path: Path, *entries: tuple[str, str], keep: str = "true") -> list[str]:
    """What is started with, after a run that served these (version, archive), default first."""
    options = options_in(tmp_path, "--keep-versions", keep)
    mar(options.archive, "1.0")
    versions = [{"version": version, "archive": archive} for version, archive in entries]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "served.json").write_text(json.dumps({"versions": versions}))
    return KeptVersions(options).to_serve()


def test_what_was_served_is_served_again_the_default_version_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mar(tmp_path / "bundled" / "car_identifier-1.2.mar", "1.2")
    served = [("1.2", "car_identifier-1.2.mar"), ("1.0", "car_identifier.mar")]
    assert kept(tmp_path, *served) == ["car_identifier-1.2.mar", "car_identifier.mar"]
    [line] = capsys.readouterr().out.splitlines()
    assert "serving version 1.2 (car_identifier-1.2.mar), beside it 1.0" in line
    assert "CARID_ARCHIVE is car_identifier.mar, version 1.0" in line


@pytest.mark.parametrize(
    ("served", "reason"),
    [
        pytest.param(
            ("1.2", "car_identifier-1.2.mar"), "there is no car_identifier-1.2.mar", id="it is gone"
        ),
        pytest.param(
            ("0.9", "car_identifier.mar"), "holds version 1.0 now", id="a newer image's instead"
        ),
    ],
)
def test_what_is_not_there_any_longer_is_not_served_and_that_is_told(
    tmp_path: Path, served: tuple[str, str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kept(tmp_path, served, ("1.0", "car_identifier.mar")) == ["car_identifier.mar"]
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith(f"version {served[0]} ({served[1]}) is not served again: ")
    assert reason in line


def test_a_version_beside_the_default_that_is_gone_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bundled").mkdir()
    (tmp_path / "bundled" / "b.mar").write_bytes(b"damaged")
    served = [("1.0", "car_identifier.mar"), ("1.2", "a.mar"), ("1.3", "b.mar")]
    assert kept(tmp_path, *served) == ["car_identifier.mar"]
    gone, damaged = capsys.readouterr().out.splitlines()
    assert "version 1.2 (a.mar) is not served again: there is no a.mar" in gone
    assert "b.mar is no archive now" in damaged


def test_a_version_on_trial_does_not_take_the_place_of_a_default_that_is_gone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mar(tmp_path / "bundled" / "car_identifier-1.3.mar", "1.3")
    gone, on_trial = ("1.2", "car_identifier-1.2.mar"), ("1.3", "car_identifier-1.3.mar")
    assert kept(tmp_path, gone, on_trial) == ["car_identifier.mar"]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["1.2", "1.3"]
    assert "the default version that it was served beside, 1.2, is not there" in lines[1]


def test_versions_are_forgotten_unless_they_are_to_be_kept(tmp_path: Path) -> None:
    mar(tmp_path / "bundled" / "car_identifier-1.2.mar", "1.2")
    assert kept(tmp_path, ("1.2", "car_identifier-1.2.mar"), keep="false") == ["car_identifier.mar"]


def test_a_damaged_memory_is_no_obstacle(tmp_path: Path) -> None:
    options = options_in(tmp_path, "--keep-versions", "true")
    options.run_dir.mkdir()
    for content in ("", "{", "[]", '{"versions": [1]}', '{"versions": [{}]}', '{"versions": null}'):
        (options.run_dir / "served.json").write_text(content)
        assert KeptVersions(options).to_serve() == ["car_identifier.mar"], content


def looked_at(
    options: Options, monkeypatch: pytest.MonkeyPatch, versions: KeptVersions, *served: Served
) -> list[str]:
    """The versions that are remembered once TorchServe was seen to have these."""
    monkeypatch.setattr(model_store, "served_versions", lambda _url, _key: list(served))
    versions.remember()
    content = json.loads((options.run_dir / "served.json").read_text())
    return [it["version"] for it in content["versions"]]


def keeping(tmp_path: Path, *more: str) -> Options:
    options = options_in(tmp_path, "--keep-versions", "true", *more)
    options.run_dir.mkdir(exist_ok=True)
    return options


FIRST, SECOND = (
    Served("1.1", "car_identifier-1.1.mar", workers=1, ready=1),
    Served("1.2", "car_identifier-1.2.mar", workers=1, ready=1),
)


def test_another_archive_in_the_settings_is_served_instead_of_what_was_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (mar(tmp_path / "bundled" / it.archive, it.version) for it in (FIRST, SECOND))
    options = keeping(tmp_path, "--archive", str(first))
    versions = KeptVersions(options)
    assert versions.to_serve() == [first.name]
    looked_at(options, monkeypatch, versions, FIRST)
    assert KeptVersions(options).to_serve() == [first.name]
    assert not capsys.readouterr().out
    options = keeping(tmp_path, "--archive", str(second))
    versions = KeptVersions(options)
    assert versions.to_serve() == [second.name]
    [line] = capsys.readouterr().out.splitlines()
    assert f"version 1.1 ({first.name}) is not served again" in line
    assert f"CARID_ARCHIVE was {first.name}, version 1.1 then, and is {second.name}" in line
    # And what is served from now on is kept in its turn.
    looked_at(options, monkeypatch, versions, SECOND, FIRST)
    assert KeptVersions(options).to_serve() == [second.name, first.name]


def test_a_new_image_takes_nothing_from_a_version_that_was_swapped_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = keeping(tmp_path)
    mar(options.archive, "1.1")
    mar(tmp_path / "bundled" / SECOND.archive, "1.2")
    looked_at(options, monkeypatch, KeptVersions(options), SECOND)
    mar(options.archive, "1.3")
    assert KeptVersions(options).to_serve() == [SECOND.archive]


def test_a_new_image_replaces_its_own_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = keeping(tmp_path)
    mar(options.archive, "1.1")
    bundled = replace(FIRST, archive=options.archive.name)
    looked_at(options, monkeypatch, KeptVersions(options), bundled)
    mar(options.archive, "1.3")
    assert KeptVersions(options).to_serve() == [options.archive.name]
    assert "1.1 (car_identifier.mar) is not served again" in capsys.readouterr().out


def test_a_version_whose_worker_is_restarting_is_not_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = keeping(tmp_path)
    versions = KeptVersions(options)
    restarting = replace(SECOND, ready=0)

    def seen(*served: Served) -> list[str]:
        return looked_at(options, monkeypatch, versions, *served)

    assert seen(FIRST, restarting) == ["1.1"], "it was never ready: it may be broken"
    assert seen(FIRST, SECOND) == ["1.1", "1.2"]
    assert seen(FIRST, restarting) == ["1.1", "1.2"]
    assert seen(replace(FIRST, ready=0), SECOND) == ["1.1", "1.2"]
    assert seen(SECOND, FIRST) == ["1.2", "1.1"]
    assert seen(replace(SECOND, ready=0, workers=0), FIRST) == ["1.2", "1.1"]
    assert seen(FIRST, replace(SECOND, ready=0, workers=0)) == ["1.1"], "scaled to none"
    assert seen(FIRST, SECOND) == ["1.1", "1.2"]
    assert seen(FIRST) == ["1.1"], "unregistered"
    assert seen(restarting, FIRST) == ["1.1"], "a default that was never ready"


def test_a_disk_that_is_full_for_a_while_is_told_once_and_ends_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    full_disk: Callable[[bool], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = keeping(tmp_path)
    versions = KeptVersions(options)
    assert looked_at(options, monkeypatch, versions, FIRST) == ["1.1"]
    full_disk(True)
    for _ in range(3):
        assert looked_at(options, monkeypatch, versions, SECOND) == ["1.1"]
    [line] = capsys.readouterr().err.splitlines()
    assert "served.json (No space left on device)" in line
    full_disk(False)
    assert looked_at(options, monkeypatch, versions, SECOND) == ["1.2"]
