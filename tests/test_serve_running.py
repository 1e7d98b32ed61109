"""`make serve`: the services that it starts, and what it leaves behind."""

from __future__ import annotations

import os
import re
import signal
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
from serve_fixtures import serve_and_fail, settings

from benchmarks.service import free_ports
from deploy.options import Options
from deploy.process_group import ProcessGroup
from deploy.serve import StopRequest, stop_all
from deploy.services import start_gateway
from deploy.torchserve import NoAnswerError, open_url

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


def log_of(tmp_path: Path, code: str) -> Path:
    """The log of a service that runs this and ends."""
    log = tmp_path / "service.log"
    group = ProcessGroup("x", [sys.executable, "-c", code], cwd=tmp_path, log=log, env={})
    while not group.is_gone():
        time.sleep(0.05)
    return log


def test_the_log_of_the_start_before_is_kept(tmp_path: Path) -> None:
    log = log_of(tmp_path, "print('why it failed')")
    before = log.with_name("service.log.1")
    assert not before.exists()
    log_of(tmp_path, "")
    assert (log.read_text(), before.read_text()) == ("", "why it failed\n")
    # Of a start that said nothing there is nothing to keep.
    log_of(tmp_path, "print('again')")
    assert (log.read_text(), before.read_text()) == ("again\n", "why it failed\n")


def test_a_log_can_be_emptied_while_its_service_writes(tmp_path: Path) -> None:
    code = "import os; print('much', flush=True); os.truncate('service.log', 0); print('end')"
    assert log_of(tmp_path, code).read_text() == "end\n"


@pytest.mark.parametrize("answers", [True, False])
def test_the_gateway_drains_only_where_photos_are_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # Ctrl-C stays pytest's
    [port] = free_ports(1)
    drain_s = 4 if answers else 60
    options = Options.parse(
        ["--port", str(port), "--run-dir", str(tmp_path), "--drain-s", str(drain_s)], {}
    )
    gateway = start_gateway(options)
    try:
        while not is_answered(f"{options.url}/healthz"):
            assert gateway.exit_code is None, gateway.log_text()
            time.sleep(0.1)
        start = time.monotonic()
        stop_all(options, [gateway], StopRequest(), answers=answers)
        seconds = time.monotonic() - start
    finally:
        gateway.stop(0)
    assert drain_s <= seconds if answers else seconds < 30


def is_answered(url: str) -> bool:
    try:
        open_url(url)
    except NoAnswerError:
        return False
    return True


@pytest.mark.parametrize(
    ("ends", "told"),
    [
        ("sys.exit(0)", ""),
        ("sys.exit(3)", " (exit code 3)"),
        ("os.kill(os.getpid(), 9)", " (killed by signal 9)"),
    ],
)
def test_how_a_service_ended_is_told_where_it_says_something(
    tmp_path: Path, ends: str, told: str
) -> None:
    command = [sys.executable, "-c", f"import os, sys; {ends}"]
    group = ProcessGroup("family", command, cwd=tmp_path, log=tmp_path / "log", env={})
    while group.exit_code is None:
        time.sleep(0.05)
    assert group.how_it_ended() == told


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
        assert "error: gateway ended by itself (killed by signal 9); " in stack.output
        assert not still_running(family)


def command_line(pid: int) -> str:
    return subprocess.run(
        ["ps", "-ww", "-o", "args=", "-p", str(pid)], capture_output=True, text=True
    ).stdout


@pytest.mark.live
def test_when_torchserve_dies_nobody_waits_for_balancers(tmp_path: Path) -> None:
    with running_stack(tmp_path, "--drain-s", "100") as stack:
        wait_until_ready(stack)
        family = descendants(stack.process.pid)
        os.kill(next(pid for pid in family if "ModelServer" in command_line(pid)), signal.SIGKILL)
        assert stack.process.wait(STOP_TIMEOUT) == 1
        assert "error: TorchServe ended by itself; the end of its log" in stack.output
        assert not still_running(family)


@pytest.mark.live
def test_stop_during_the_start_leaves_nothing_and_waits_for_nobody(tmp_path: Path) -> None:
    with running_stack(tmp_path, "--drain-s", "100") as stack:
        while not is_answered(f"{stack.url}/healthz"):
            assert stack.process.poll() is None, stack.output
            time.sleep(0.05)
        family = descendants(stack.process.pid)  # Java is up by now, a worker perhaps
        assert "ready, after" not in stack.output
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
