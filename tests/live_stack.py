"""The whole service as a user starts it, once for all tests that talk to it over HTTP."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from benchmarks.service import free_ports

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT = 200
STOP_TIMEOUT = 60


@dataclass(frozen=True)
class LiveStack:
    """A running `python -m deploy.serve` on ports of its own; addresses without a final slash."""

    url: str
    inference_url: str
    management_url: str
    metrics_url: str
    run_dir: Path
    process: subprocess.Popen[bytes]

    @property
    def key_file(self) -> Path:
        """TorchServe's tokens."""
        return self.run_dir / "key_file.json"

    @property
    def output(self) -> str:
        """What the launcher has printed."""
        return (self.run_dir / "serve.out").read_text()


@pytest.fixture(scope="session")
def live_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveStack]:
    """TorchServe and the gateway with the bundled archive (or CARID_ARCHIVE), ready for photos."""
    with running_stack(tmp_path_factory.mktemp("run")) as stack:
        wait_until_ready(stack)
        yield stack
        family = descendants(stack.process.pid)
        assert len(family) >= 4, "gateway, TorchServe's script, Java and a worker are expected"
        stack.process.send_signal(signal.SIGINT)
        assert stack.process.wait(STOP_TIMEOUT) == 0, stack.output
        assert not still_running(family), "Ctrl-C left processes behind"


@contextmanager
def running_stack(run_dir: Path, *options: str) -> Iterator[LiveStack]:
    """Start the launcher on free ports; whatever the test did, nothing of it runs afterwards."""
    port, inference, management, metrics = free_ports(4)
    command = [
        *(sys.executable, "-m", "deploy.serve", "--run-dir", str(run_dir), "--port", str(port)),
        *("--inference-port", str(inference), "--management-port", str(management)),
        *("--metrics-port", str(metrics), *options),
    ]
    # Settings of whoever runs the tests are theirs; only the archive under test may be chosen.
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("CARID_") or name == "CARID_ARCHIVE"
    }
    with (run_dir / "serve.out").open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=inherited, stdout=output, stderr=subprocess.STDOUT
        )
    stack = LiveStack(
        url=f"http://127.0.0.1:{port}",
        inference_url=f"http://127.0.0.1:{inference}",
        management_url=f"http://127.0.0.1:{management}",
        metrics_url=f"http://127.0.0.1:{metrics}",
        run_dir=run_dir,
        process=process,
    )
    try:
        yield stack
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(STOP_TIMEOUT)


def wait_until_ready(stack: LiveStack) -> None:
    """Wait for the launcher's word; its failure is the tests' failure, in its own words."""
    deadline = time.monotonic() + START_TIMEOUT
    while "is ready" not in stack.output:
        if stack.process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"the service did not start:\n{stack.output}", pytrace=False)
        time.sleep(0.2)


def descendants(pid: int) -> set[int]:
    """The ids of all processes that the process started, and those started, and so on."""
    table = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, check=True)
    children: dict[int, set[int]] = {}
    for line in table.stdout.splitlines():
        child, parent = map(int, line.split())
        children.setdefault(parent, set()).add(child)
    found, open_ends = set[int](), {pid}
    while open_ends:
        open_ends = set().union(*(children.get(one, set()) for one in open_ends))
        found |= open_ends
    return found


def still_running(pids: set[int]) -> set[int]:
    """Those of the processes that exist and are no zombies."""
    listing = ["ps", "-o", "pid=,stat=", "-p", ",".join(map(str, pids))]
    states = subprocess.run(listing, capture_output=True, text=True).stdout.splitlines()
    return {int(pid) for pid, state in map(str.split, states) if not state.startswith("Z")}


def manage(stack: LiveStack, method: str, path: str, **query: object) -> Any:
    key = json.loads(stack.key_file.read_text())["management"]["key"]
    response = requests.request(
        method,
        f"{stack.management_url}{path}",
        params=query,
        headers={"Authorization": f"Bearer {key}"},
        timeout=120,
    )
    assert response.ok, response.text
    return response.json()


@contextmanager
def frozen_worker(stack: LiveStack, version: str = "") -> Iterator[None]:
    """The worker of a version, or of the default one, does nothing inside the `with` block."""
    [model] = manage(stack, "GET", f"/models/car_identifier/{version}".rstrip("/"))
    [worker] = model["workers"]
    os.kill(worker["pid"], signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(worker["pid"], signal.SIGCONT)
