"""`make serve`: what stops it before it starts, and what it leaves behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
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
from deploy.announcement import announce
from deploy.options import Options
from deploy.process_group import ProcessGroup
from deploy.serve import StopRequest, stop_all
from deploy.services import effective_properties, start_gateway
from deploy.torchserve import NoAnswerError, open_url
from gateway.settings import Settings


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A zip file that passes for an archive until a worker loads it."""
    path = tmp_path / "car_identifier.mar"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("MAR-INF/MANIFEST.json", "{}")
    return path


def serve_and_fail(
    tmp_path: Path, command: tuple[str, ...] = ("-m", "deploy.serve"), **environ: str
) -> str:
    """Run the launcher to its end and return its one line of complaint."""
    names = ("PORT", "INFERENCE_PORT", "MANAGEMENT_PORT", "METRICS_PORT")
    ports = zip(names, free_ports(len(names)), strict=True)
    settings = {f"CARID_{name}": str(port) for name, port in ports}
    settings["CARID_RUN_DIR"] = str(tmp_path / "run")
    finished = subprocess.run(
        [sys.executable, *command],
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


# Whoever runs the tests, root as well, starts it as somebody whom the permissions are for.
AS_ANOTHER_USER = """
import os, sys, deploy.serve
if os.geteuid() == 0:
    os.seteuid(65534)
sys.exit(deploy.serve.main())
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """One that every user can enter and write; pytest's own are for their owner."""
    folder = Path(tempfile.mkdtemp(prefix="carid-test-"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("closed", ["models", "models/car_identifier.mar"])
def test_archive_that_may_not_be_read_is_one_line_that_says_by_whom(
    open_folder: Path, archive: Path, closed: str
) -> None:
    mounted = open_folder / "models" / archive.name
    mounted.parent.mkdir(mode=0o755)
    shutil.copyfile(archive, mounted)
    (open_folder / closed).chmod(0)
    command = ("-c", AS_ANOTHER_USER)
    line = serve_and_fail(open_folder, command, CARID_ARCHIVE=str(mounted))
    (open_folder / closed).chmod(0o755)
    assert f"user {os.geteuid() or 65534} can't read the model archive {mounted}: " in line
    assert f"make {open_folder / closed} readable" in line


def test_ports_that_are_the_same_are_one_line_that_names_both(
    tmp_path: Path, archive: Path
) -> None:
    [port] = free_ports(1)
    same = {"CARID_PORT": str(port), "CARID_INFERENCE_PORT": str(port)}
    line = serve_and_fail(tmp_path, CARID_ARCHIVE=str(archive), **same)
    assert line.startswith(f"error: port {port} is meant for both ")
    assert all(variable in line for variable in same)


def test_address_of_another_machine_is_one_line(tmp_path: Path, archive: Path) -> None:
    line = serve_and_fail(tmp_path, CARID_ARCHIVE=str(archive), CARID_HOST="192.0.2.1")
    assert "192.0.2.1" in line
    assert "CARID_HOST" in line


def test_options_come_from_the_command_line_before_the_environment() -> None:
    environ = {"CARID_PORT": "9000", "CARID_HOST": "0.0.0.0", "CARID_METRICS_PORT": "9002"}
    options = Options.parse(["--port", "9001"], environ)
    assert (options.port, options.metrics_port, options.inference_port) == (9001, 9002, 8080)
    assert options.url == "http://127.0.0.1:9001"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CARID_PORT", "70000"),
        ("CARID_PORT", "-5"),
        ("CARID_PORT", "0"),
        ("CARID_METRICS_PORT", "many"),
        ("CARID_DRAIN_S", "inf"),
        ("CARID_DRAIN_S", "-1"),
        ("CARID_UNREADY_TIMEOUT", "nan"),
        ("CARID_STARTUP_TIMEOUT", "long"),
    ],
)
def test_number_that_is_none_is_one_line_that_names_it(
    capsys: pytest.CaptureFixture[str], variable: str, value: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        Options.parse([], {variable: value})
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert variable in line
    assert repr(value) in line


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["PORT", "KEEP_VERSIONS", "DRAIN_S", "ARCHIVE", "RUN_DIR", "SERVICES", "CANARY_FILE"]
    assert Options.parse([], {f"CARID_{name}": "" for name in names}) == Options.parse([], {})
    for name in Settings.model_fields:
        monkeypatch.delenv(f"CARID_{name.upper()}", raising=False)
    unset = Settings()
    for name in Settings.model_fields:
        monkeypatch.setenv(f"CARID_{name.upper()}", "")
    assert Settings() == unset


@pytest.mark.parametrize(("host", "seen_at"), [("0.0.0.0", "127.0.0.1"), ("::", "[::1]")])
def test_who_listens_everywhere_is_asked_nearby(host: str, seen_at: str) -> None:
    assert Options.parse(["--host", host], {}).url == f"http://{seen_at}:8000"


def test_keys_are_in_the_run_directory_unless_the_environment_names_another_file() -> None:
    assert Options.parse(["--run-dir", "/run/cars"], {}).api_keys_file == Path(
        "/run/cars/api_keys.json"
    )
    elsewhere = {"CARID_API_KEYS_FILE": "/etc/keys.json"}
    assert Options.parse([], elsewhere).api_keys_file == Path("/etc/keys.json")


def test_the_canary_is_where_the_commands_on_versions_write_it() -> None:
    elsewhere = {"CARID_CANARY_FILE": "/etc/canary.json"}  # `carid models` does not look at that
    options = Options.parse(["--run-dir", "/run/cars"], elsewhere)
    assert options.canary_file == Path("/run/cars/canary.json")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CARID_ACCESS", "nobody"),
        ("CARID_ANSWER_TIMEOUT_S", "inf"),
        ("CARID_READY_TTL_S", "nan"),
        ("CARID_TRUSTED_PROXIES", "nonsense"),
        ("CARID_TRUSTED_PROXIES", "10.0.0.1,*"),
        ("CARID_TRUSTED_PROXIES", "10.0.0.1/8"),
        ("CARID_TRUSTED_PROXIES", ","),
    ],
)
def test_a_setting_that_the_gateway_refuses_is_one_line(
    tmp_path: Path, archive: Path, variable: str, value: str
) -> None:
    line = serve_and_fail(tmp_path, CARID_ARCHIVE=str(archive), **{variable: value})
    assert variable in line
    assert repr(value) in line


@pytest.mark.parametrize(
    ("proxies", "read"),
    [
        ("*", "*"),
        ("10.0.0.1", "10.0.0.1"),
        ("10.0.0.0/8, 2001:db8::/32,::1,", "10.0.0.0/8,2001:db8::/32,::1"),
    ],
)
def test_proxies_are_addresses_and_networks(proxies: str, read: str) -> None:
    assert Settings(trusted_proxies=proxies).trusted_proxies == read


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


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{",
        b"HTTP/1.1 503 Oh\r\nContent-Length: 99\r\n\r\n{",
    ],
)
def test_half_an_answer_is_none(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve_once() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(answer)

        threading.Thread(target=serve_once, daemon=True).start()
        with pytest.raises(NoAnswerError):
            open_url(f"http://127.0.0.1:{server.getsockname()[1]}/")


# --- what the reader is told ---------------------------------------------------------------------


def test_on_the_console_nothing_is_announced_that_is_wrong_outside_of_a_container(
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = Options.parse(["--logs", "console", "--host", "0.0.0.0"], {})
    announce(options, 4, key_needed=True)
    told = capsys.readouterr().out
    assert told.startswith("\nCar Identifier is ready, after 4 s\n")
    assert "listens on 0.0.0.0:8000, with an API key" in told
    assert not [word for word in ("http:", "carid", "Ctrl-C") if word in told]


def test_bulk_where_it_is_left_out_says_where_it_is(tmp_path: Path) -> None:
    """As in the image: the client is there, and neither bulk nor the handler."""
    for package in ("client", "gateway"):
        shutil.copytree(ROOT / package, tmp_path / package)
    # An editable install would find it elsewhere.
    command = "import sys; sys.modules['bulk'] = None; from client.cli import app; app()"
    run = subprocess.run(
        [sys.executable, "-c", command, "bulk", "photos", "out"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2
    assert "the container image has no bulk; a checkout of the repository has" in run.stderr


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
