"""`make serve`: what stops it before it starts, and what it says."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_stack import (
    ROOT,
)
from serve_fixtures import serve_and_fail, settings

from benchmarks.service import free_ports
from deploy.announcement import announce
from deploy.options import Options
from deploy.services import effective_properties
from deploy.torchserve import NoAnswerError, open_url
from gateway.settings import Settings

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
