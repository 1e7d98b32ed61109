"""The launcher as containers and pods use it: console logs, services apart, versions kept."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
import zipfile
from pathlib import Path

import pytest
import requests
from live_stack import (
    ROOT,
    STOP_TIMEOUT,
    LiveStack,
    running_stack,
    still_running,
    wait_until_ready,
)

from benchmarks.serving.photos import write_photos
from benchmarks.swap import with_version
from client.management import TorchServe
from client.run_dir import RunDir

pytestmark = pytest.mark.live

BUNDLED = ROOT / "model_store" / "car_identifier.mar"
OTHER = "99.0"


def management(stack: LiveStack) -> TorchServe:
    return TorchServe(stack.management_url, stack.inference_url, stack.key_file)


def default_version(stack: LiveStack) -> str:
    return str(requests.get(f"{stack.url}/v1/models", timeout=30).json()["default_version"])


def health(stack: LiveStack, *asked: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploy.healthcheck", *asked],
        cwd=ROOT,
        env={
            "CARID_PORT": stack.url.rpartition(":")[2],
            "CARID_MANAGEMENT_PORT": stack.management_url.rpartition(":")[2],
            "CARID_RUN_DIR": str(stack.run_dir),
        },
        capture_output=True,
        text=True,
    )


def test_with_logs_on_the_console_nothing_grows_on_the_disk(tmp_path: Path) -> None:
    with running_stack(tmp_path, "--logs", "console") as stack:
        wait_until_ready(stack)
        photo = next(iter(photos(tmp_path)))
        before = files_of(tmp_path)
        for _ in range(20):
            assert requests.post(
                f"{stack.url}/v1/identify",
                data=photo,
                headers={"Content-Type": "image/jpeg"},
                timeout=30,
            ).ok
        assert files_of(tmp_path) == before
        assert not any(tmp_path.rglob("*.log"))
        assert stack.output.count("POST /v1/identify 200") == 20
        assert '"verdict": ' in stack.output, "the worker's own lines"
        assert "result=[METRICS]" not in stack.output, "a line per photo, not a dozen"


def files_of(run_dir: Path) -> dict[str, int]:
    """Sizes, but for what this test itself writes: the console."""
    files = (path for path in run_dir.rglob("*") if path.is_file() and path.name != "serve.out")
    return {str(path): path.stat().st_size for path in files}


def photos(folder: Path) -> list[bytes]:
    write_photos(None, folder, ["small"], small=1)
    return [path.read_bytes() for path in (folder / "small").iterdir()]


def test_a_broken_archive_is_told_on_the_console_too(tmp_path: Path) -> None:
    broken = tmp_path / "store" / "car_identifier.mar"
    broken.parent.mkdir()
    spoil(BUNDLED, broken)
    with running_stack(tmp_path, "--archive", str(broken), "--logs", "console") as stack:
        assert stack.process.wait(200) == 1
        assert f"error: the worker cannot load {broken}: model.json " in stack.output


def spoil(source: Path, target: Path) -> None:
    with zipfile.ZipFile(source) as whole, zipfile.ZipFile(target, "w") as spoilt:
        for name in whole.namelist():
            spoilt.writestr(name, b"{}" if name == "model.json" else whole.read(name))


def test_versions_registered_by_anyone_are_served_again_after_a_restart(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    with_version(BUNDLED, store / f"car_identifier-{OTHER}.mar", OTHER)
    options = ("--model-store", str(store), "--keep-versions", "true")
    with running_stack(tmp_path, *options) as stack:
        wait_until_ready(stack)
        bundled = default_version(stack)
        torchserve = management(stack)
        torchserve.register(f"car_identifier-{OTHER}.mar", 1)
        torchserve.set_default(OTHER)
        RunDir(tmp_path).write_canary(bundled, 0.25)
        stack.process.terminate()
        assert stack.process.wait(STOP_TIMEOUT) == 0
    (tmp_path / "serve.out").unlink()
    with running_stack(tmp_path, *options) as stack:
        wait_until_ready(stack)
        assert default_version(stack) == OTHER
        served = {it.version: it.ready for it in management(stack).versions()}
        assert served == {OTHER: 1, bundled: 1}
        assert RunDir(tmp_path).read_canary() == (bundled, 0.25), "the version on trial is back too"


def test_two_launchers_make_a_whole_and_each_ends_when_its_service_ends(tmp_path: Path) -> None:
    shared = tmp_path / "run"
    shared.mkdir()
    with running_stack(shared, "--services", "torchserve", "--logs", "console") as torchserve:
        wait_until_ready(torchserve)
        assert health(torchserve, "--torchserve").stdout == "healthy\n"
        assert health(torchserve).returncode == 1, "there is no gateway"
        ports = [
            f"--{name}-port={getattr(torchserve, f'{name}_url').rpartition(':')[2]}"
            for name in ("inference", "management", "metrics")
        ]
        command = [
            *(sys.executable, "-m", "deploy.serve", "--services", "gateway", *ports),
            *("--run-dir", str(shared), "--port", torchserve.url.rpartition(":")[2]),
        ]
        with (tmp_path / "gateway.out").open("wb") as output:
            gateway = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
        try:
            while health(torchserve).returncode:
                assert gateway.poll() is None, (tmp_path / "gateway.out").read_text()
                time.sleep(0.2)
            listed = json.loads((shared / "service.json").read_text())
            assert listed["management_url"] == torchserve.management_url
            assert listed["gateway_url"] == torchserve.url
            # A pod sends the signal to both at once: TorchServe has to wait for the gateway.
            torchserve.process.send_signal(signal.SIGTERM)
            time.sleep(1)
            assert torchserve.process.poll() is None
            with urllib.request.urlopen(f"{torchserve.url}/v1/models", timeout=30) as answer:
                assert answer.status == 200
        finally:
            gateway.terminate()
            assert gateway.wait(STOP_TIMEOUT) == 0
        assert torchserve.process.wait(STOP_TIMEOUT) == 0
        assert not still_running({torchserve.process.pid, gateway.pid})


def test_a_service_that_loses_its_worker_for_good_ends_with_an_error(tmp_path: Path) -> None:
    with running_stack(tmp_path, "--unready-timeout", "7") as stack:
        wait_until_ready(stack)
        management(stack).scale(default_version(stack), 0)
        assert stack.process.wait(60) == 1
        assert "CARID_UNREADY_TIMEOUT" in stack.output
