"""`make serve`: what stops it before it starts, and what it leaves behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import requests
from live_stack import (
    ROOT,
    START_TIMEOUT,
    STOP_TIMEOUT,
    LiveStack,
    descendants,
    running_stack,
    still_running,
    wait_until_ready,
)

from benchmarks.service import free_ports
from deploy.options import Options
from deploy.process_group import ProcessGroup
from deploy.services import effective_properties


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A zip file that passes for an archive until a worker loads it."""
    path = tmp_path / "car_identifier.mar"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("MAR-INF/MANIFEST.json", "{}")
    return path


def serve_and_fail(tmp_path: Path, **environ: str) -> str:
    """Run the launcher to its end and return its one line of complaint."""
    names = ("PORT", "INFERENCE_PORT", "MANAGEMENT_PORT", "METRICS_PORT")
    ports = zip(names, free_ports(len(names)), strict=True)
    settings = {f"CARID_{name}": str(port) for name, port in ports}
    settings["CARID_RUN_DIR"] = str(tmp_path / "run")
    finished = subprocess.run(
        [sys.executable, "-m", "deploy.serve"],
        cwd=ROOT,
        env={**os.environ, **settings, **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert finished.returncode == 1
    assert finished.stdout == "", "nothing was started"
    assert finished.stderr.startswith("error: ")
    assert finished.stderr.count("\n") == 1, finished.stderr
    return finished.stderr


# --- before anything is started ---------------------------------------------------------------


@pytest.mark.parametrize(
    "variable",
    ["CARID_PORT", "CARID_INFERENCE_PORT", "CARID_MANAGEMENT_PORT", "CARID_METRICS_PORT"],
)
def test_busy_port_is_one_line_that_names_it_and_the_way_out(
    tmp_path: Path, archive: Path, variable: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1])
        line = serve_and_fail(tmp_path, CARID_ARCHIVE=str(archive), **{variable: port})
    assert f"port {port} " in line
    assert f"make serve {variable}=" in line


def test_missing_archive_is_one_line_that_names_the_place(tmp_path: Path) -> None:
    line = serve_and_fail(tmp_path, CARID_ARCHIVE=str(tmp_path / "none.mar"))
    assert str(tmp_path / "none.mar") in line
    assert "make archive" in line


def test_half_a_download_is_told_from_an_archive(tmp_path: Path, archive: Path) -> None:
    archive.write_bytes(archive.read_bytes()[:40])
    assert "not a model archive" in serve_and_fail(tmp_path, CARID_ARCHIVE=str(archive))


def test_address_of_another_machine_is_one_line(tmp_path: Path, archive: Path) -> None:
    line = serve_and_fail(tmp_path, CARID_ARCHIVE=str(archive), CARID_HOST="192.0.2.1")
    assert "192.0.2.1" in line
    assert "CARID_HOST" in line


def test_options_come_from_the_command_line_before_the_environment() -> None:
    environ = {"CARID_PORT": "9000", "CARID_HOST": "0.0.0.0", "CARID_METRICS_PORT": "9002"}
    options = Options.parse(["--port", "9001"], environ)
    assert (options.port, options.metrics_port, options.inference_port) == (9001, 9002, 8080)
    assert options.url == "http://127.0.0.1:9001"


@pytest.mark.parametrize(("host", "seen_at"), [("0.0.0.0", "127.0.0.1"), ("::", "[::1]")])
def test_who_listens_everywhere_is_asked_nearby(host: str, seen_at: str) -> None:
    assert Options.parse(["--host", host], {}).url == f"http://{seen_at}:8000"


def test_keys_and_canary_are_in_the_run_directory_unless_the_environment_names_another() -> None:
    options = Options.parse(["--run-dir", "/run/cars"], {"CARID_CANARY_FILE": "/etc/canary.json"})
    assert options.api_keys_file == Path("/run/cars/api_keys.json")
    assert options.canary_file == Path("/etc/canary.json")


def test_a_setting_that_the_gateway_refuses_is_one_line(tmp_path: Path, archive: Path) -> None:
    line = serve_and_fail(tmp_path, CARID_ARCHIVE=str(archive), CARID_ACCESS="nobody")
    assert "CARID_ACCESS" in line


def test_only_addresses_differ_from_the_repository_configuration() -> None:
    source = (ROOT / "config.properties").read_text()
    options = Options.parse(["--inference-port", "18080"], {"CARID_HOST": "0.0.0.0"})
    before, after = settings(source), settings(effective_properties(source, options))
    assert after.pop("inference_address") == "http://127.0.0.1:18080"
    assert {key: before[key] for key in after} == after
    assert set(before) - set(after) == {"inference_address"}


def test_the_metrics_are_listed_beside_the_configuration_that_names_them() -> None:
    named = settings((ROOT / "config.properties").read_text())["metrics_config"]
    assert (ROOT / named).samefile(ROOT / "metrics.yaml")


def settings(properties: str) -> dict[str, str]:
    lines = (line.partition("=") for line in properties.splitlines() if not line.startswith("#"))
    return {key: value for key, _, value in lines if key}


# --- a service and all it starts --------------------------------------------------------------

# A parent and a child, like TorchServe's script and its Java; the child's pid goes to the log.
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {child!r}])
print(child.pid, flush=True)
{then}
"""
SLEEPS = "import time; time.sleep(600)"
REFUSES_TO_STOP = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEPS


@pytest.mark.parametrize(
    ("child", "then"),
    [
        pytest.param(SLEEPS, "child.wait()", id="both run"),
        pytest.param(SLEEPS, "sys.exit(3)", id="the parent has ended"),
        pytest.param(REFUSES_TO_STOP, "child.wait()", id="the child ignores SIGTERM"),
    ],
)
def test_stopping_a_service_ends_its_children_too(tmp_path: Path, child: str, then: str) -> None:
    code = PARENT.format(child=child, then=then)
    log = tmp_path / "log"
    group = ProcessGroup("family", [sys.executable, "-c", code], cwd=tmp_path, log=log, env={})
    while not log.read_text().endswith("\n"):
        time.sleep(0.05)
    time.sleep(0.5)  # for the child to be in its sleep, or the parent gone
    child_pid = int(log.read_text())
    assert still_running({child_pid})
    assert not group.is_gone()
    group.stop(patience=1)
    assert group.is_gone()
    assert not still_running({child_pid})


# --- the real thing ---------------------------------------------------------------------------


@pytest.mark.live
def test_announcement_has_a_line_to_paste(live_stack: LiveStack) -> None:
    assert f"curl -F file=@photo.jpg {live_stack.url}/v1/identify" in live_stack.output


@pytest.mark.live
def test_torchserve_shows_the_metrics_that_the_repository_lists(live_stack: LiveStack) -> None:
    named = settings((live_stack.run_dir / "config.properties").read_text())["metrics_config"]
    beside = live_stack.run_dir / named
    assert beside.read_text() == (ROOT / "metrics.yaml").read_text()
    log = (live_stack.run_dir / "torchserve.log").read_text()
    assert f"Successfully loaded metrics configuration from {beside}" in log


@pytest.mark.live
def test_tokens_are_for_their_owner_only(live_stack: LiveStack) -> None:
    assert live_stack.key_file.stat().st_mode & 0o777 == 0o600


@pytest.mark.live
def test_second_launcher_in_the_same_directory_is_turned_away(
    live_stack: LiveStack, tmp_path: Path
) -> None:
    line = serve_and_fail(tmp_path, CARID_RUN_DIR=str(live_stack.run_dir))
    assert "already serving" in line
    assert live_stack.key_file.exists(), "the tokens of the first are untouched"


@pytest.mark.live
def test_who_opens_it_to_others_is_shown_the_first_key_once(tmp_path: Path) -> None:
    with running_stack(tmp_path, "--host", "0.0.0.0") as stack:
        wait_until_ready(stack)
        [key] = re.findall(r"carid_\S{43}", stack.output)
        assert '-H "X-API-Key: $CARID_API_KEY"' in stack.output
        labels = f"{stack.url}/v1/labels"
        assert requests.get(labels, timeout=30).status_code == 401
        assert requests.get(labels, headers={"X-API-Key": key}, timeout=30).status_code == 200
        logs = [file.read_text("utf-8", "replace") for file in tmp_path.glob("*.log")]
        assert len(logs) >= 2
        assert not any(key in log for log in logs)


@pytest.mark.live
def test_when_a_service_dies_the_launcher_says_which_and_stops_the_other(tmp_path: Path) -> None:
    with running_stack(tmp_path) as stack:
        wait_until_ready(stack)
        family = descendants(stack.process.pid)
        gateway = next(pid for pid in family if "gateway" in command_line(pid))
        os.kill(gateway, signal.SIGKILL)
        assert stack.process.wait(STOP_TIMEOUT) == 1
        assert "error: gateway ended by itself" in stack.output
        assert not still_running(family)


def command_line(pid: int) -> str:
    return subprocess.run(
        ["ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True
    ).stdout


@pytest.mark.live
def test_stop_during_the_start_leaves_nothing(tmp_path: Path) -> None:
    with running_stack(tmp_path) as stack:
        while "gateway is starting" not in stack.output:
            time.sleep(0.05)
        time.sleep(2)  # Java is up by now, a worker perhaps
        family = descendants(stack.process.pid)
        stack.process.terminate()
        assert stack.process.wait(STOP_TIMEOUT) == 0
        assert not still_running(family)


@pytest.mark.live
def test_archive_that_no_worker_can_load_is_one_line_with_the_reason(tmp_path: Path) -> None:
    broken = tmp_path / "broken.mar"
    bundled = Options.parse([], os.environ).archive
    with zipfile.ZipFile(bundled) as source, zipfile.ZipFile(broken, "w") as target:
        for name in source.namelist():
            target.writestr(name, b"{}" if name == "model.json" else source.read(name))
    with running_stack(tmp_path, "--archive", str(broken)) as stack:
        assert stack.process.wait(START_TIMEOUT) == 1
        assert f"the worker cannot load {broken}: model.json " in stack.output
