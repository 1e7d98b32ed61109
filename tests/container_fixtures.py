"""The image, and the pictures that are sent to it, for all tests that run it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.containers import engine
from benchmarks.serving.photos import write_photos

__all__ = ["BUNDLED", "STATE", "image", "photos"]

IMAGE = os.environ.get("CARID_IMAGE", "car-identifier") + ":latest"
BUNDLED = Path(__file__).resolve().parent.parent / "model_store" / "car_identifier.mar"
# The one place where a container writes.
STATE = "/var/lib/car-identifier"


@pytest.fixture(scope="session")
def image() -> str:
    """The image's name; skips, or fails with CARID_REQUIRE_CONTAINER=1, where it can't be had."""
    found = engine("image", "inspect", IMAGE, check=False)
    if found.returncode == 0:
        return IMAGE
    reason = f"needs Docker or podman, and the image {IMAGE}: make image ({found.stderr.strip()})"
    if os.environ.get("CARID_REQUIRE_CONTAINER"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Pictures that no data folder is needed for."""
    folder = tmp_path_factory.mktemp("photos")
    write_photos(None, folder, ["small"], small=4)
    return {path.name: path.read_bytes() for path in sorted((folder / "small").iterdir())}
