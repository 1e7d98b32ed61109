"""What the launcher keeps in its run directory and tells others there; its logs and health."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import cast

import pytest
from serve_fixtures import NoVersions, options_in

from client.errors import VersionError
from client.management import TorchServe
from client.run_dir import RunDir
from client.versions import Versions
from deploy import healthcheck
from deploy.errors import ServeError
from deploy.process_group import ProcessGroup
from deploy.readiness import Vigil
from deploy.run_directory import (
    exclusive_run_dir,
    gateway_is_up,
    temporary_directory,
    write_service_file,
)
from deploy.services import start_gateway, start_torchserve

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
