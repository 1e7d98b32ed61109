"""The image, run as docs/container.md says: what it answers, and what it is not allowed to do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from container_fixtures import BUNDLED, STATE, image, photos

from benchmarks.containers import Container, engine, running
from benchmarks.soak.corpus import what_is_expected

__all__ = ["image", "photos"]

pytestmark = [pytest.mark.container, pytest.mark.timeout(300)]

# Everything but the model, which is unpacked there, and the bookkeeping of files.
FILES = f"find {STATE} -type f -not -path '*/tmp/models/*' -printf '%s %p\\n'"

# Ends a process of the container, by a part of its command line; there is no ps and no pkill in it.
KILL = """
import os, pathlib, signal, sys
for entry in pathlib.Path("/proc").glob("[0-9]*"):
    if entry.name == str(os.getpid()):
        continue
    if sys.argv[1] in (entry / "cmdline").read_text().replace("\\0", " "):
        os.kill(int(entry.name), signal.SIGKILL)
        print("killed", entry.name)
"""
# Takes the worker away and lets none come back.
NO_WORKER = """
import json, urllib.request
key = json.load(open("/var/lib/car-identifier/run/key_file.json"))["management"]["key"]
url = "http://127.0.0.1:8081/models/car_identifier?min_worker=0&max_worker=0&synchronous=true"
request = urllib.request.Request(url, method="PUT", headers={"Authorization": f"Bearer {key}"})
urllib.request.urlopen(request, timeout=30)
"""


@pytest.fixture(scope="module")
def container(image: str) -> Iterator[Container]:
    """One for all tests that only ask."""
    with running(image) as container:
        yield container


def identify(container: Container, photo: bytes, key: str) -> requests.Response:
    headers = {"Content-Type": "image/jpeg", "X-API-Key": key}
    return requests.post(f"{container.url}/v1/identify", data=photo, headers=headers, timeout=60)


def test_photos_get_the_answers_that_the_archive_gives_without_any_server(
    container: Container, photos: dict[str, bytes], tmp_path: Path
) -> None:
    key = container.first_key()
    for name, right in what_is_expected(BUNDLED, photos, tmp_path).items():
        reply = identify(container, photos[name], key)
        assert reply.status_code == right.status == 200
        answer = reply.json()
        assert answer["class_id"] == right.class_id
        assert answer["confidence"] == pytest.approx(right.confidences[0], abs=1e-3)


def test_a_real_photo_is_named_rightly(container: Container, cars_data: Path) -> None:
    rows = (cars_data / "photos" / "labels.csv").read_text().splitlines()[1:21]
    key, right = container.first_key(), 0
    for row in rows:
        file, class_id, _ = row.split(",", 2)
        reply = identify(container, (cars_data / "photos" / file).read_bytes(), key)
        assert reply.status_code == 200
        right += reply.json()["class_id"] == int(class_id)
    assert right >= 15  # 20 photos that the model was trained with


def test_who_has_no_key_is_turned_away(container: Container, photos: dict[str, bytes]) -> None:
    url = f"{container.url}/v1/identify"
    headers = {"Content-Type": "image/jpeg"}
    refused = requests.post(url, data=next(iter(photos.values())), headers=headers, timeout=30)
    assert refused.status_code == 401
    assert requests.get(f"{container.url}/", timeout=30).status_code == 200


def test_it_is_nobody_with_no_rights_on_a_system_that_cannot_be_written(
    container: Container,
) -> None:
    assert container.run("id", "-u").stdout.strip() == "10001"
    status = container.run("cat", "/proc/1/status").stdout
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    for folder in ("/opt/car-identifier", "/tmp", "/etc", "/home"):
        assert container.run("touch", f"{folder}/x", check=False).returncode != 0, folder
    container.run("sh", "-c", f"touch {STATE}/x && rm {STATE}/x")


def test_the_memory_limit_holds_and_is_far_away(container: Container) -> None:
    code = (
        "from pathlib import Path\n"
        "for name in ('memory/memory.limit_in_bytes', 'memory.max'):\n"
        "    if (path := Path('/sys/fs/cgroup') / name).exists(): print(path.read_text())"
    )
    assert int(container.run("python", "-c", code).stdout) == 2 * 2**30
    # A process that wants more than there is does not get it; the service is not the one to go.
    hungry = "x = bytearray(3 * 2**30)\nfor i in range(0, len(x), 4096): x[i] = 1"
    assert container.run("python", "-c", hungry, check=False).returncode != 0
    container.wait_until_ready()


def test_only_the_gateway_can_be_reached(container: Container) -> None:
    table = container.run("cat", "/proc/net/tcp", "/proc/net/tcp6").stdout
    sockets = [line.split() for line in table.splitlines() if ":" in line]
    listening = [columns[1] for columns in sockets if columns[3] == "0A"]
    loopback = (
        "0100007F:",
        "00000000000000000000000001000000:",
        "0000000000000000FFFF00000100007F:",
    )
    assert len(listening) > 3, "TorchServe listens too"
    assert [it for it in listening if not it.startswith(loopback)] == ["00000000:1F40"]


def test_logs_are_on_the_console_and_nothing_grows_on_the_disk(
    container: Container, photos: dict[str, bytes]
) -> None:
    key = container.first_key()
    before = container.run("sh", "-c", FILES).stdout
    for _ in range(50):
        for photo in photos.values():
            assert identify(container, photo, key).status_code == 200
    assert container.run("sh", "-c", FILES).stdout == before
    assert ".log" not in before
    log = container.log()
    assert "torchserve | " in log
    assert log.count("POST /v1/identify 200") >= 200
    assert log.count(key) == 1


def test_nothing_is_missing_that_archives_for_torch_need(container: Container) -> None:
    code = (
        "import torch\n"
        "photo = torch.rand(1, 3, 8, 8)\n"
        "program = torch.export.export(torch.nn.Conv2d(3, 4, 3), (photo,))\n"
        f"torch.export.save(program, '{STATE}/x.pt2')\n"
        f"print(torch.export.load('{STATE}/x.pt2').module()(photo).shape)"
    )
    # Exporting wants a place for temporary files, which the launcher gives to workers.
    shape = container.run("env", f"TMPDIR={STATE}", "python", "-c", code).stdout
    container.run("rm", f"{STATE}/x.pt2")
    assert shape == "torch.Size([1, 4, 6, 6])\n"


def test_the_image_says_what_it_is(image: str) -> None:
    [found] = json.loads(engine("image", "inspect", image).stdout)
    labels = found["Config"]["Labels"]
    assert labels["org.opencontainers.image.licenses"].startswith("MIT AND "), "code and weights"
    assert labels["org.opencontainers.image.version"].count(".") == 2
    assert re.fullmatch(r"[0-9a-f]{40}|unknown", labels["org.opencontainers.image.revision"])
    assert found["Config"]["User"] == "10001:10001"


# --- when something goes wrong ------------------------------------------------------------------


def test_without_a_worker_it_is_unhealthy_and_then_ends_for_its_supervisor(image: str) -> None:
    with running(image, "-e", "CARID_UNREADY_TIMEOUT=20") as container:
        healthy = container.run("python", "-m", "deploy.healthcheck")
        assert healthy.stdout == "healthy\n"
        assert is_called_healthy(container)
        container.run("python", "-c", NO_WORKER)
        for asked in ((), ("--torchserve",)):
            check = container.run("python", "-m", "deploy.healthcheck", *asked, check=False)
            # The gateway believes for five seconds in what it has just seen.
            while check.returncode == 0:
                check = container.run("python", "-m", "deploy.healthcheck", *asked, check=False)
            assert check.returncode == 1
            assert "no worker that is ready" in check.stdout
        assert not is_called_healthy(container)
        assert container.exit_code(timeout=60) == 1
        assert "error: not ready for" in container.log()


def is_called_healthy(container: Container) -> bool:
    """What the image's own HEALTHCHECK says; Docker can't be told to ask just now."""
    if "podman" in engine("--version").stdout:
        return engine("healthcheck", "run", container.name, check=False).returncode == 0
    [found] = json.loads(engine("inspect", container.name).stdout)
    [_, *command] = found["Config"]["Healthcheck"]["Test"]
    return container.run(*command, check=False).returncode == 0


@pytest.mark.parametrize("victim", ["-m gateway", "org.pytorch.serve.ModelServer"])
def test_the_end_of_one_service_is_the_end_of_the_container(image: str, victim: str) -> None:
    # Nobody is given time to go elsewhere by a service that answers nothing.
    with running(image, "-e", "CARID_DRAIN_S=100") as container:
        assert "killed" in container.run("python", "-c", KILL, victim).stdout
        assert container.exit_code(timeout=60) == 1
        assert "ended by itself" in container.log()


def test_a_wrong_setting_is_one_line(image: str) -> None:
    with running(image, "-e", "CARID_LOGS=everywhere", wait=False) as container:
        assert container.exit_code(timeout=30) == 2
        [line] = container.log().splitlines()
        assert "neither files nor console" in line


def test_what_is_announced_and_offered_is_true_in_a_container(container: Container) -> None:
    log = container.log()
    assert "listens on 0.0.0.0:8000, with an API key" in log
    assert not [word for word in ("http://127.0.0.1:8000", "Ctrl-C", "its log:") if word in log]
    bulk = container.run("carid", "bulk", "photos", "out", check=False)
    assert bulk.returncode == 2
    assert "the container image has no bulk" in bulk.stderr
