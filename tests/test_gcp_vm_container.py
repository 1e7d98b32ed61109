"""A VM's script starts the real image: keys of Secret Manager (a stand-in), a photo answered."""

from __future__ import annotations

import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import requests
from container_fixtures import image
from test_gcp_vm import SECRET, Vm, add_key, vm

from benchmarks.containers import engine
from benchmarks.service import free_ports
from gateway.health import probe_photo

__all__ = ["image", "vm"]

pytestmark = [pytest.mark.container, pytest.mark.timeout(300)]

ENGINE = Path(__file__).resolve().parent.parent / "deploy" / "container" / "engine"

# In the place of docker: the engine that is here, and names that nothing else on this machine has.
DOCKER = """\
#!/bin/bash
arguments=()
for argument in "$@"; do
  [[ $argument != car-identifier ]] || argument={name}
  arguments+=("${{argument/#car-identifier:\\/var/{name}:/var}}")
done
exec {engine} run --read-only-tmpfs=false "${{arguments[@]:1}}"
"""


@pytest.fixture
def name() -> Iterator[str]:
    """Of the container and its volume; neither is left behind."""
    unique = f"car-identifier-{uuid.uuid4().hex[:8]}"
    yield unique
    engine("rm", "--force", unique, check=False)
    engine("volume", "rm", "--force", unique, check=False)


@pytest.fixture
def pinned(image: str) -> Iterator[str]:
    """The image by a digest, as if it came from a registry."""
    if os.geteuid() != 0:
        pytest.skip("the script gives files to the image's user: needs root, as on a VM")
    if "podman" not in engine("--version").stdout:
        pytest.skip("docker knows no digest of an image that no registry has seen")
    repository = "europe-west1-docker.pkg.dev/p/r/car-identifier"
    engine("tag", image, f"{repository}:test")
    digest = engine("image", "inspect", "--format", "{{.Digest}}", image).stdout.strip()
    yield f"{repository}@{digest}"
    engine("untag", image, f"{repository}:test", check=False)


def wait_until_ready(url: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1]
        with suppress(requests.ConnectionError):
            if requests.get(f"{url}/readyz", timeout=10).ok:
                return
        time.sleep(0.5)
    pytest.fail("not ready after 120 s")


def identify(url: str, key: str) -> int:
    """The answer's status; what it says is printed, for a test that fails."""
    headers = {"Content-Type": "image/png", "Authorization": f"Bearer {key}"}
    photo = probe_photo()
    answer = requests.post(f"{url}/v1/identify", data=photo, headers=headers, timeout=60)
    print(answer.status_code, answer.text)
    return answer.status_code


def test_vm_serves_with_the_keys_of_the_secret_and_takes_notice_of_new_ones(
    vm: Vm, pinned: str, name: str
) -> None:
    (vm.folder / "bin" / "docker").write_text(DOCKER.format(name=name, engine=ENGINE))
    (port,) = free_ports(1)
    key = add_key(vm, "laptop")
    vm.google.attributes |= {
        "car-identifier-image": pinned,
        "car-identifier-port": f"127.0.0.1:{port}",
        "car-identifier-env": "CARID_DRAIN_S=2\nCARID_RATE_PER_MINUTE=1000",
    }
    environment = vm.environment() | {"CARID_ID": "10001"}
    for variable in ("CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF", "CARID_ENGINE"):
        if variable in os.environ:
            environment[variable] = os.environ[variable]
    started = subprocess.Popen(
        ["bash", str(vm.folder / "vm.sh"), "start"], env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(url, started)
        assert identify(url, key) == 200
        assert identify(url, "carid_of_nobody") == 401

        other = add_key(vm, "phone")
        assert identify(url, other) == 401
        command = ["bash", str(vm.folder / "vm.sh"), "keys"]
        subprocess.run(command, env=environment, check=True, timeout=60)
        assert identify(url, other) == 200

        refused = engine("exec", name, "sh", "-c", "echo x > /etc/car-identifier/x", check=False)
        assert "Read-only file system" in refused.stderr
        stopped = time.monotonic()
        engine("stop", "-t", "75", name)
        assert started.wait(30) == 0
        assert time.monotonic() - stopped < 60
    finally:
        started.terminate()
        started.communicate(timeout=100)
    assert SECRET in "".join(vm.google.requests)
