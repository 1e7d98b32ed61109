"""What a container keeps over a restart, and where it takes models from."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from container_fixtures import BUNDLED, STATE, image, photos

from benchmarks.containers import Container, engine, running
from benchmarks.swap import with_version

__all__ = ["image", "photos"]

pytestmark = [pytest.mark.container, pytest.mark.timeout(300)]

OTHER = "99.0"


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as another version, in a folder that can be mounted as model_store/."""
    folder = tmp_path_factory.mktemp("store")
    archive = with_version(BUNDLED, folder / "car_identifier.mar", OTHER)
    folder.chmod(0o755)
    archive.chmod(0o644)
    return archive


@pytest.fixture
def volume() -> Iterator[str]:
    """A volume of its own, gone after the test."""
    name = f"car-identifier-{uuid.uuid4().hex[:8]}"
    engine("volume", "create", name)
    yield name
    engine("volume", "rm", "-f", name)


def identify(container: Container, photo: bytes, key: str) -> requests.Response:
    headers = {"Content-Type": "image/jpeg", "X-API-Key": key}
    return requests.post(f"{container.url}/v1/identify", data=photo, headers=headers, timeout=60)


def served(container: Container, key: str) -> str:
    models = requests.get(f"{container.url}/v1/models", headers={"X-API-Key": key}, timeout=30)
    return str(models.json()["default_version"])


def swap(container: Container) -> None:
    told = container.run("carid", "models", "swap", "/new/car_identifier.mar")
    assert f"{OTHER} serves" in told.stdout + told.stderr


@pytest.mark.parametrize(("keep", "afterwards"), [("true", OTHER), ("false", "the bundled one")])
def test_a_swapped_model_survives_a_restart_if_so_configured(
    image: str, other: Path, keep: str, afterwards: str
) -> None:
    mounted = ("-v", f"{other.parent}:/new:ro", "-e", f"CARID_KEEP_VERSIONS={keep}")
    with running(image, *mounted) as container:
        key = container.first_key()
        bundled = served(container, key)
        swap(container)
        assert served(container, key) == OTHER
        container.restart()
        assert served(container, key) == (bundled if afterwards != OTHER else OTHER)
        assert "1 of 1" in container.run("carid", "models", "list").stdout


def test_after_a_crash_too_the_swapped_model_comes_back(image: str, other: Path) -> None:
    mounted = ("-v", f"{other.parent}:/new:ro", "-e", "CARID_KEEP_VERSIONS=true")
    with running(image, *mounted) as container:
        key = container.first_key()
        swap(container)
        container.run("sh", "-c", f"until grep -q {OTHER} {STATE}/run/served.json; do :; done")
        engine("kill", "-s", "KILL", container.name)
        container.exit_code(timeout=30)
        engine("wait", container.name)  # podman still has the old port to clear away
        engine("start", container.name)
        container.wait_until_ready()
        assert served(container, key) == OTHER


def test_another_archive_is_served_from_a_mounted_model_store(
    image: str, other: Path, photos: dict[str, bytes]
) -> None:
    with running(image, "-v", f"{other.parent}:/opt/car-identifier/model_store:ro") as container:
        key = container.first_key()
        assert served(container, key) == OTHER
        reply = identify(container, next(iter(photos.values())), key)
        assert reply.json()["model_version"] == OTHER


def test_an_archive_that_cannot_be_served_is_one_line_with_the_reason(
    image: str, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    store.mkdir(mode=0o755)
    (store / "car_identifier.mar").write_bytes(BUNDLED.read_bytes()[:1000])
    (store / "car_identifier.mar").chmod(0o644)
    for folder in (tmp_path, *list(tmp_path.parents)[:2]):
        folder.chmod(0o755)
    mounted = ("-v", f"{store}:/opt/car-identifier/model_store:ro")
    with running(image, *mounted, wait=False) as container:
        assert container.exit_code(timeout=60) == 1
        assert "is not a model archive" in container.log().splitlines()[-1]
    shutil.rmtree(store)


def test_keys_outlive_the_container_in_a_volume(
    image: str, volume: str, photos: dict[str, bytes]
) -> None:
    photo = next(iter(photos.values()))
    with running(image, "-v", f"{volume}:{STATE}") as container:
        first = container.first_key()
        made = container.run("carid", "keys", "create", "laptop").stdout
        assert "carid_" in made
    with running(image, "-v", f"{volume}:{STATE}") as container:
        assert identify(container, photo, first).status_code == 200
        assert "carid_" not in container.log(), "a key is shown once"
        names = container.run("carid", "keys", "list").stdout
        assert "first" in names
        assert "laptop" in names
        container.run("carid", "keys", "revoke", "first")
        assert identify(container, photo, first).status_code == 401
