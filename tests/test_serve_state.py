"""What the launcher keeps in its run directory and its model store, and tells others there."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from client.run_dir import RunDir
from deploy import healthcheck
from deploy.errors import ServeError
from deploy.model_store import KeptVersions, put_archive_into_store
from deploy.options import Options
from deploy.process_group import ProcessGroup
from deploy.readiness import Vigil
from deploy.run_directory import (
    exclusive_run_dir,
    gateway_is_up,
    temporary_directory,
    write_service_file,
)


def mar(path: Path, version: str) -> Path:
    """A zip file that passes for an archive of that version."""
    path.parent.mkdir(parents=True, exist_ok=True)
    manifest = {"model": {"modelName": "car_identifier", "modelVersion": version}}
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
    return path


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
    assert f"argument {option}: " in capsys.readouterr().err


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
    assert [path.name for path in stored.parent.iterdir()] == ["car_identifier.mar"]


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


def test_what_was_served_is_served_again_the_default_version_first(tmp_path: Path) -> None:
    mar(tmp_path / "bundled" / "car_identifier-1.2.mar", "1.2")
    served = [("1.2", "car_identifier-1.2.mar"), ("1.0", "car_identifier.mar")]
    assert kept(tmp_path, *served) == ["car_identifier-1.2.mar", "car_identifier.mar"]


@pytest.mark.parametrize(
    "served",
    [
        pytest.param(("1.2", "car_identifier-1.2.mar"), id="the archive is gone"),
        pytest.param(("0.9", "car_identifier.mar"), id="a newer image has replaced it"),
    ],
)
def test_what_is_not_there_any_longer_is_not_served(
    tmp_path: Path, served: tuple[str, str]
) -> None:
    assert kept(tmp_path, served, ("1.0", "car_identifier.mar")) == ["car_identifier.mar"]


def test_a_version_on_trial_does_not_take_the_place_of_a_default_that_is_gone(
    tmp_path: Path,
) -> None:
    mar(tmp_path / "bundled" / "car_identifier-1.3.mar", "1.3")
    gone, on_trial = ("1.2", "car_identifier-1.2.mar"), ("1.3", "car_identifier-1.3.mar")
    assert kept(tmp_path, gone, on_trial) == ["car_identifier.mar"]


def test_versions_are_forgotten_unless_they_are_to_be_kept(tmp_path: Path) -> None:
    mar(tmp_path / "bundled" / "car_identifier-1.2.mar", "1.2")
    assert kept(tmp_path, ("1.2", "car_identifier-1.2.mar"), keep="false") == ["car_identifier.mar"]


def test_a_damaged_memory_is_no_obstacle(tmp_path: Path) -> None:
    options = options_in(tmp_path, "--keep-versions", "true")
    options.run_dir.mkdir()
    for content in ("", "{", "[]", '{"versions": [1]}', '{"versions": [{}]}', '{"versions": null}'):
        (options.run_dir / "served.json").write_text(content)
        assert KeptVersions(options).to_serve() == ["car_identifier.mar"], content


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
