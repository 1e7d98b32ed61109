"""What the launcher keeps in its run directory and its model store, and tells others there."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from client.errors import TorchServeError, VersionError
from client.management import TorchServe
from client.run_dir import RunDir
from client.versions import Versions
from deploy import healthcheck, model_store
from deploy.errors import ServeError
from deploy.model_store import KeptVersions, archive_version, put_archive_into_store
from deploy.options import Options
from deploy.process_group import ProcessGroup
from deploy.readiness import Vigil
from deploy.run_directory import (
    exclusive_run_dir,
    gateway_is_up,
    temporary_directory,
    write_service_file,
)
from deploy.services import start_gateway, start_torchserve
from deploy.torchserve import Served


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


class NoVersions:
    """Stands in for a TorchServe with nothing registered, which refuses everything."""

    def versions(self) -> list[object]:
        return []

    def version(self, _version: str) -> None:
        return None

    def register(self, _archive: str, _workers: int) -> None:
        raise TorchServeError("TorchServe says: no")


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


# --- the run directory --------------------------------------------------------------------------


def test_two_launchers_share_a_run_directory_if_they_run_different_services(
    tmp_path: Path,
) -> None:
    torchserve = options_in(tmp_path, "--services", "torchserve")
    gateway = options_in(tmp_path, "--services", "gateway")
    with exclusive_run_dir(torchserve):
        assert not gateway_is_up(tmp_path / "run")
        with exclusive_run_dir(gateway):
            assert gateway_is_up(tmp_path / "run")
            with pytest.raises(ServeError, match="already serving"), exclusive_run_dir(gateway):
                pass
    assert not gateway_is_up(tmp_path / "run")


def test_each_launcher_tells_where_its_services_are(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    write_service_file(
        options_in(tmp_path, "--services", "torchserve", "--management-port", "18081")
    )
    write_service_file(options_in(tmp_path, "--services", "gateway", "--port", "18000"))
    told = RunDir(tmp_path / "run")
    assert told.management_url == "http://127.0.0.1:18081"
    assert told.model_store == tmp_path / "bundled"
    content = json.loads((tmp_path / "run" / "service.json").read_text())
    assert content["gateway_url"] == "http://127.0.0.1:18000"
    assert set(content) == {
        *("gateway_url", "inference_url", "management_url", "metrics_url", "model_store")
    }


def test_what_a_killed_launcher_left_is_gone_at_the_next_start(tmp_path: Path) -> None:
    options = options_in(tmp_path)
    left = options.run_dir / "tmp"
    (left / "models" / "unpacked").mkdir(parents=True)
    with temporary_directory(options) as temporary:
        assert temporary == left
        assert not any(temporary.iterdir())
        assert temporary.stat().st_mode & 0o777 == 0o700
    assert not temporary.exists()


def test_a_gateway_that_starts_and_ends_alone_leaves_torchserves_files(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with temporary_directory(options_in(tmp_path, "--services", "torchserve")) as temporary:
        (temporary / ".ts.sock.9000").touch()
        with temporary_directory(options_in(tmp_path, "--services", "gateway")):
            pass
        assert (temporary / ".ts.sock.9000").exists()


def test_sockets_of_workers_fit_into_the_temporary_directory(tmp_path: Path) -> None:
    deep = tmp_path / ("deep" * 20)
    (deep / "run").mkdir(parents=True)
    with temporary_directory(options_in(deep)) as temporary:
        assert len(os.fsencode(temporary / ".ts.sock.9000")) < 108
    assert not temporary.exists()


def test_a_full_disk_at_the_start_is_one_line(
    tmp_path: Path, full_disk: Callable[[bool], None]
) -> None:
    options = options_in(tmp_path)
    options.run_dir.mkdir()
    full_disk(True)

    def enter(directory: AbstractContextManager[object]) -> None:
        with directory:
            pytest.fail("there is none")

    steps: list[Callable[[], object]] = [
        lambda: enter(temporary_directory(options)),
        lambda: enter(exclusive_run_dir(options)),
        lambda: start_torchserve(options, ["car_identifier.mar"], tmp_path),
        lambda: start_gateway(options),
        lambda: write_service_file(options),
    ]
    for step in steps:
        with pytest.raises(ServeError, match=r"No space left.*make room.*CARID_RUN_DIR") as caught:
            step()
        assert "\n" not in str(caught.value)


def test_no_room_for_temporary_files_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    options = options_in(tmp_path / ("deep" * 20))
    with pytest.raises(ServeError, match="TMPDIR"), temporary_directory(options):
        pass


def test_a_command_that_finds_the_disk_full_says_so(
    tmp_path: Path, full_disk: Callable[[bool], None]
) -> None:
    run_dir = RunDir(tmp_path)
    run_dir.write_state({"previous": {}})
    full_disk(True)
    with pytest.raises(VersionError, match=r"versions\.json \(No space left.*make room"):
        run_dir.write_state({})
    assert run_dir.read_state() == {"previous": {}}


@pytest.mark.parametrize("logs", ["files", "console"])
def test_a_command_names_torchserves_log_where_there_is_one(tmp_path: Path, logs: str) -> None:
    if logs == "files":
        (tmp_path / "torchserve.log").touch()
    versions = Versions(cast(TorchServe, NoVersions()), RunDir(tmp_path), None)
    with pytest.raises(VersionError, match="The reason is in ") as caught:
        versions.register("car_identifier-1.2.mar", "1.2")
    named = str(tmp_path / "torchserve.log") in str(caught.value)
    assert named == (logs == "files")
    assert named or str(caught.value).endswith("The reason is in the service's log")


# --- logs on the console ------------------------------------------------------------------------

SPEAKS = "import sys; print('one'); print('two', file=sys.stderr, flush=True); print('end', end='')"
LAUNCHER = f"""
import sys
from pathlib import Path
from deploy.process_group import ProcessGroup
group = ProcessGroup("speaker", [sys.executable, "-uc", {SPEAKS!r}], cwd=Path(), log=None, env={{}})
while not group.is_gone():
    pass
group.stop(1)
print(repr(group.log_text()))
"""


def test_lines_of_a_service_are_printed_with_its_name() -> None:
    printed = subprocess.run([sys.executable, "-c", LAUNCHER], capture_output=True, text=True)
    assert printed.stdout.splitlines() == [
        "speaker    | one",
        "speaker    | two",
        "speaker    | end",
        repr("one\ntwo\nend\n"),
    ], printed.stderr


def test_a_service_goes_on_when_nobody_reads_the_console(tmp_path: Path) -> None:
    code = "import pathlib\nfor i in range(20000): print(i)\npathlib.Path('done').touch()"
    launcher = (
        "import os, sys; from pathlib import Path; from deploy.process_group import ProcessGroup\n"
        f"g = ProcessGroup('x', [sys.executable, '-c', {code!r}], cwd=Path({str(tmp_path)!r}), "
        "log=None, env={})\nwhile not g.is_gone(): pass\nos._exit(0)"
    )
    process = subprocess.Popen([sys.executable, "-c", launcher], stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.close()
    assert process.wait(30) == 0
    assert (tmp_path / "done").exists()


def test_only_the_last_lines_are_held_in_memory(tmp_path: Path) -> None:
    code = "for i in range(5000): print(i)"
    group = ProcessGroup("x", [sys.executable, "-c", code], cwd=tmp_path, log=None, env={})
    while not group.is_gone():
        time.sleep(0.05)
    group.stop(1)
    assert group.log_text().splitlines() == [str(number) for number in range(3000, 5000)]


# --- health -------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [[], ["--torchserve"]])
def test_health_of_what_does_not_run_is_one_line_and_a_status(
    asked: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CARID_PORT", "1")
    monkeypatch.setenv("CARID_RUN_DIR", str(tmp_path))
    assert healthcheck.main(asked) == 1
    printed = capsys.readouterr().out
    assert printed.startswith("unhealthy: ")
    assert printed.count("\n") == 1


def test_what_stays_unready_for_too_long_is_given_up(tmp_path: Path) -> None:
    vigil = Vigil(options_in(tmp_path, "--port", "1", "--unready-timeout", "0.5"))
    began = time.monotonic()
    with pytest.raises(ServeError, match="CARID_UNREADY_TIMEOUT"):
        look_for(10, vigil)
    assert time.monotonic() - began >= 0.5


def look_for(seconds: float, vigil: Vigil) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        vigil.look()


def test_without_a_limit_nobody_is_given_up(tmp_path: Path) -> None:
    vigil = Vigil(options_in(tmp_path, "--port", "1"))
    for _ in range(3):
        vigil.look()


def test_the_lock_is_one_that_ends_with_its_process(tmp_path: Path) -> None:
    with exclusive_run_dir(options_in(tmp_path, "--services", "gateway")):
        pass
    with (tmp_path / "run" / "gateway.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
