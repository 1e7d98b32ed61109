"""The rendered Deployment as a real pod of two containers: `podman kube play` runs it.

What of Kubernetes podman does not do is left to the other tests: its probes, and secrets (podman 4
mounts them undecoded, so that the keys come from a folder here).
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from container_fixtures import image
from test_gcp_vm_container import identify
from test_kubernetes import container, example, only, pod

from benchmarks.containers import engine
from benchmarks.service import free_ports
from gateway.keys import KeyStore

__all__ = ["image"]

pytestmark = [pytest.mark.container, pytest.mark.timeout(300)]

PAUSE = Path("/usr/libexec/podman/catatonit")
DRAIN_S = 4


@pytest.fixture
def podman(image: str) -> str:
    """The image, where podman is the engine and can make pods."""
    if "podman" not in engine("--version").stdout:
        pytest.skip("docker plays no Kubernetes YAML: podman does")
    if not PAUSE.exists():
        pytest.skip("podman needs catatonit to make a pod (Debian: apt install catatonit)")
    return image


@pytest.fixture
def played(podman: str, tmp_path: Path) -> Iterator[tuple[str, str, str]]:
    """A running pod's name, its gateway's address, and a key for it."""
    objects = example()
    name = f"carid-{uuid.uuid4().hex[:8]}"
    (port,) = free_ports(1)
    keys = tmp_path / "keys"
    key = KeyStore(keys / "api_keys.json").create("laptop")
    for path in (tmp_path, keys, *keys.iterdir()):
        path.chmod(path.stat().st_mode | 0o055)

    deployment: dict[str, Any] = json.loads(json.dumps(only(objects, "Deployment")))
    deployment["metadata"] = {"name": name}
    deployment["spec"]["replicas"] = 1
    pod([deployment])["restartPolicy"] = "Never"  # what is told to stop here stays so
    for each in pod([deployment])["containers"]:
        each |= {"image": podman, "imagePullPolicy": "Never"}
    container([deployment], "gateway")["ports"][0] |= {"hostPort": port, "hostIP": "127.0.0.1"}
    for volume in pod([deployment])["volumes"]:
        if volume.pop("secret", None):
            volume["hostPath"] = {"path": str(keys), "type": "Directory"}
    settings = {**only(objects, "ConfigMap"), "metadata": {"name": config_name(deployment)}}
    settings["data"] |= {"CARID_DRAIN_S": str(DRAIN_S)}
    file = tmp_path / "pod.yaml"
    file.write_text(yaml.safe_dump_all([settings, deployment]), "utf-8")

    engine("kube", "play", str(file))
    members = [f"{name}-pod-0-{it}" for it in ("torchserve", "gateway")]
    mounted = [it for each in members for it in inspect(each)["Mounts"] if it["Type"] == "volume"]
    try:
        yield f"{name}-pod-0", f"http://127.0.0.1:{port}", key
    finally:
        for each in members:  # shown if the test fails
            print(engine("logs", each, check=False).stdout)
        engine("pod", "rm", "--force", f"{name}-pod-0", check=False)
        for volume in {it["Name"] for it in mounted}:
            engine("volume", "rm", "--force", volume, check=False)


def config_name(deployment: dict[str, Any]) -> str:
    return str(container([deployment], "gateway")["envFrom"][0]["configMapRef"]["name"])


def inspect(name: str) -> dict[str, Any]:
    (found,) = json.loads(engine("container", "inspect", name).stdout)
    return dict(found)


def test_pod_answers_photos_and_stops_in_order(played: tuple[str, str, str]) -> None:
    name, url, key = played
    deadline = time.monotonic() + 120
    status = 0
    while status != 200:
        assert time.monotonic() < deadline, engine("logs", f"{name}-gateway").stdout
        with suppress(requests.ConnectionError):
            status = requests.get(f"{url}/readyz", timeout=10).status_code
        time.sleep(0.5)
    assert identify(url, key) == 200
    assert identify(url, "carid_of_nobody") == 401

    for each in ("torchserve", "gateway"):
        found = inspect(f"{name}-{each}")
        assert found["HostConfig"]["ReadonlyRootfs"] is True
        assert engine("exec", f"{name}-{each}", "id", "-u").stdout.strip() == "10001"
        assert found["EffectiveCaps"] in (None, [])
        limit = {"torchserve": 4, "gateway": 2}[each]
        assert found["HostConfig"]["Memory"] == limit * 2**30
    probe = container(example(), "torchserve")["livenessProbe"]["exec"]["command"]
    assert engine("exec", f"{name}-torchserve", *probe).stdout.strip() == "healthy"

    # Both at once, as a kubelet does. (`podman pod stop` ends the pod's network first.)
    engine("kill", "--signal", "TERM", f"{name}-torchserve", f"{name}-gateway")
    draining = 0
    while not draining:  # until the signal has arrived
        draining = int(requests.get(f"{url}/readyz", timeout=10).status_code == 503)
    assert identify(url, key) == 200  # it is answered still, and TorchServe is there for it
    deadline = time.monotonic() + pod(example())["terminationGracePeriodSeconds"]
    running = True
    while running:
        assert time.monotonic() < deadline
        states = {it: inspect(f"{name}-{it}")["State"] for it in ("torchserve", "gateway")}
        running = any(state["Running"] for state in states.values())
    assert {it: state["ExitCode"] for it, state in states.items()} == {
        "torchserve": 0,
        "gateway": 0,
    }
    assert states["torchserve"]["FinishedAt"] >= states["gateway"]["FinishedAt"]
