"""Fixtures that several test files share."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from toy_cars import write_devkit

# Before any test file imports pytorch_lightning, which pulls in torchvision: see its module
# torchvision_compat.
import lightning_train  # noqa: F401

# A shell starts what runs in the background with Ctrl-C ignored, and so would be what tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Toy networks are no faster on two threads, and round differently than the one thread of the
# commands that tests start.
torch.set_num_threads(1)

pytest_plugins = [
    "gateway_fixtures",
    "live_stack",
    "serve_fixtures",
    "browser_fixtures",
    "public_gateway",
]


@pytest.fixture(scope="session")
def cars_data() -> Path:
    """The folder of real data that the environment variable CARS_DATA names."""
    folder = os.environ.get("CARS_DATA")
    if not folder:
        pytest.skip("needs real photos: set CARS_DATA to a folder with stanford_cars/ and photos/")
    path = Path(folder)
    if not path.is_dir():
        pytest.fail(f"CARS_DATA={folder} is no folder: mend or unset it")
    return path


@pytest.fixture(scope="session")
def toy_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty toy cars in the devkit layout, to be read only."""
    return write_devkit(tmp_path_factory.mktemp("toy"))
