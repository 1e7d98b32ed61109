"""The pod of deploy/kubernetes without a cluster: its two containers as two processes.

Each is started with the settings that the rendered Deployment gives its container, on the same
loopback and the same run directory, and both are told to stop at once, as a kubelet does.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from live_stack import descendants
from test_kubernetes import Object, container, example, pod, settings

from benchmarks.service import free_ports
from gateway.health import probe_photo
from gateway.keys import KeyStore

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("torchserve", "gateway")
DRAIN_S = 3.0  # instead of the pod's, to be done sooner
START_TIMEOUT = 180.0


@dataclass
class Pod:
    """The two processes, and the way to the gateway.

    Attributes:
        folder: what is shared; the run directory lies in it.
        port: the gateway's.
        key: opens the gateway.
        containers: running processes, by their container's name.
        environment: of all of them, in it the ports.
        ended: when each was gone, by time.monotonic().
    """

    folder: Path
    port: int
    key: str
    environment: dict[str, str]
    containers: dict[str, subprocess.Popen[bytes]]
    ended: dict[str, float]

    def probe(self, objects: list[Object], name: str, kind: str) -> bool:
        """What a kubelet would find, asking as the Deployment says."""
        probe = container(objects, name)[kind]
        if "exec" in probe:
            _, *arguments = probe["exec"]["command"]
            asked = subprocess.run(
                [sys.executable, *arguments], cwd=ROOT, env=self.environment, capture_output=True
            )
            return asked.returncode == 0
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", probe["httpGet"]["path"])
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def log(self) -> str:
        return "\n".join((self.folder / f"{name}.out").read_text() for name in NAMES)

    def wait_for(self, objects: list[Object], name: str, kind: str) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not self.probe(objects, name, kind):
            assert time.monotonic() < deadline, self.log()
            assert all(it.poll() is None for it in self.containers.values()), self.log()
            time.sleep(0.5)

    def stop(self) -> None:
        """SIGTERM to both at once; returns when both are gone."""
        for process in self.containers.values():
            process.send_signal(signal.SIGTERM)
        waiting = dict(self.containers)
        while waiting:
            for name in [it for it in waiting if waiting[it].poll() is not None]:
                self.ended[name] = time.monotonic()
                del waiting[name]
            time.sleep(0.05)


@contextmanager
def running(folder: Path, objects: list[Object]) -> Iterator[Pod]:
    port, inference, management, metrics = free_ports(4)
    key = KeyStore(folder / "api_keys.json").create("laptop")
    shared = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        **settings(objects),
        "CARID_DRAIN_S": str(DRAIN_S),
        # Of the image.
        "CARID_HOST": "127.0.0.1",
        "CARID_ACCESS": "key",
        "CARID_LOGS": "console",
        "CARID_RUN_DIR": str(folder / "run"),
        # All the ports of a pod are its own; this machine's are not.
        "CARID_PORT": str(port),
        "CARID_INFERENCE_PORT": str(inference),
        "CARID_MANAGEMENT_PORT": str(management),
        "CARID_METRICS_PORT": str(metrics),
        "CARID_RATE_PER_MINUTE": "1000000",
    }
    if archive := os.environ.get("CARID_ARCHIVE"):
        shared["CARID_ARCHIVE"] = archive
    containers = {}
    for name in NAMES:
        own = {it["name"]: it["value"] for it in container(objects, name)["env"]}
        if "CARID_API_KEYS_FILE" in own:
            own["CARID_API_KEYS_FILE"] = str(folder / "api_keys.json")
        with (folder / f"{name}.out").open("wb") as output:
            containers[name] = subprocess.Popen(
                [sys.executable, "-m", "deploy.serve"],
                cwd=ROOT, env=shared | own, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
    started = Pod(folder, port, key, shared, containers, {})
    try:
        yield started
    finally:
        for process in containers.values():
            if process.poll() is None:
                process.terminate()
        for process in containers.values():
            process.wait(120)


class Caller(threading.Thread):
    """Sends photo after photo until nobody takes its connection any more."""

    def __init__(self, target: Pod) -> None:
        super().__init__(daemon=True)
        self._pod = target
        self._photo = probe_photo()
        self.answered = 0
        self.lost: list[str] = []

    def run(self) -> None:
        headers = {"Content-Type": "image/png", "Authorization": f"Bearer {self._pod.key}"}
        while not self.lost:
            connection = http.client.HTTPConnection("127.0.0.1", self._pod.port, timeout=60)
            try:
                connection.connect()
            except ConnectionRefusedError:
                return
            try:
                connection.request("POST", "/v1/identify?top_k=1", self._photo, headers)
                response = connection.getresponse()
                body = response.read()
            except (OSError, http.client.HTTPException) as error:
                self.lost.append(repr(error))
            else:
                self.answered += 1
                if response.status != 200 or "verdict" not in json.loads(body):
                    self.lost.append(f"{response.status} {body!r}")
            finally:
                connection.close()


def test_pod_starts_by_its_probes_and_stops_without_losing_a_photo(tmp_path: Path) -> None:
    objects = example()
    with running(tmp_path, objects) as started:
        started.wait_for(objects, "gateway", "startupProbe")
        started.wait_for(objects, "torchserve", "startupProbe")
        started.wait_for(objects, "gateway", "readinessProbe")
        callers = [Caller(started) for _ in range(8)]
        for caller in callers:
            caller.start()
        deadline = time.monotonic() + 60
        while sum(it.answered for it in callers) < 100 and time.monotonic() < deadline:
            time.sleep(0.1)
        before = sum(it.answered for it in callers)
        assert before >= 100, started.log()

        stopped = time.monotonic()
        started.stop()
        for caller in callers:
            caller.join(60)
        answered = sum(it.answered for it in callers)
        print(f"answered {answered}, {answered - before} of them after SIGTERM")
        assert [what for it in callers for what in it.lost] == []
        assert answered > before
        assert [it.returncode for it in started.containers.values()] == [0, 0], started.log()
        took = {name: ended - stopped for name, ended in started.ended.items()}
        assert took["gateway"] >= DRAIN_S
        assert took["torchserve"] >= took["gateway"]
        drain = float(settings(objects)["CARID_DRAIN_S"])
        grace = pod(objects)["terminationGracePeriodSeconds"]
        assert took["torchserve"] - DRAIN_S + drain < grace


def test_torchserve_that_dies_is_started_anew_beside_the_same_gateway(tmp_path: Path) -> None:
    """As a kubelet does with a container that ends: the gateway goes on, and finds the new one."""
    objects = example()
    with running(tmp_path, objects) as started:
        started.wait_for(objects, "gateway", "readinessProbe")
        first = started.containers["torchserve"]
        for process in descendants(first.pid):
            os.kill(process, signal.SIGKILL)
        assert first.wait(60) != 0
        assert started.probe(objects, "gateway", "livenessProbe")
        own = {it["name"]: it["value"] for it in container(objects, "torchserve")["env"]}
        with (tmp_path / "torchserve.out").open("ab") as output:
            started.containers["torchserve"] = subprocess.Popen(
                [sys.executable, "-m", "deploy.serve"],
                cwd=ROOT, env=started.environment | own, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
        started.wait_for(objects, "torchserve", "startupProbe")
        started.wait_for(objects, "gateway", "readinessProbe")
        assert started.containers["gateway"].poll() is None
        started.stop()
