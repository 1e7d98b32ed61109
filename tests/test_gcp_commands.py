"""The commands of docs/gcp.md, read by gcloud's own parser; none of them is run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "gcp.md").read_text("utf-8")

# What the page's reader has set.
VALUES = {
    "PROJECT": "my-project",
    "REGION": "europe-west1",
    "ZONE": "europe-west1-b",
    "REPOSITORY": "europe-west1-docker.pkg.dev/my-project/car-identifier",
    "ACCOUNT": "car-identifier-vm@my-project.iam.gserviceaccount.com",
    "IMAGE": f"europe-west1-docker.pkg.dev/my-project/car-identifier/x@sha256:{'0' * 64}",
}


def shell_lines() -> list[str]:
    """Every command that follows a $, with its continued lines."""
    code = "\n".join(re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL))
    return re.findall(r"^\$ (.+)$", re.sub(r"\\\n\s*", "", code), re.MULTILINE)


def gcloud_commands() -> list[str]:
    lines = [
        re.sub(r"\$(\w+)", lambda it: VALUES[it[1]], it) for it in shell_lines() if "gcloud" in it
    ]
    return [it.strip() for line in lines for it in line.split(" | ")]


def judge(commands: list[str], folder: Path) -> dict[str, str | None]:
    """What gcloud has against each; None if nothing."""
    gcloud = shutil.which("gcloud")
    if gcloud is None:
        pytest.skip("there is no gcloud on this machine")
    file = folder / "commands.json"
    file.write_text(json.dumps([{"command_string": it} for it in commands]), "utf-8")
    checked = subprocess.run(
        [gcloud, "meta", "lint-gcloud-commands", "--commands-file", str(file)],
        env={**os.environ, "CLOUDSDK_CONFIG": str(folder / "config")},
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stderr
    answers = json.loads(checked.stdout)
    return {it["command_string"]: None if it["success"] else it["error_message"] for it in answers}


def test_gcloud_understands_every_command_of_the_page(tmp_path: Path) -> None:
    commands = gcloud_commands()
    assert len(commands) >= 20
    judged = judge(commands, tmp_path)
    assert len(judged) == len(set(commands))
    assert {command: problem for command, problem in judged.items() if problem} == {}


def test_a_slip_would_be_found(tmp_path: Path) -> None:
    command = "gcloud compute instances create a --zone=europe-west1-b --imagefamily=cos-stable"
    (problem,) = judge([command], tmp_path).values()
    assert problem is not None
    assert "unrecognized arguments: --imagefamily=cos-stable" in problem


def test_names_in_the_page_are_those_that_the_files_know() -> None:
    """Metadata that the VM's script reads, resources and outputs that Terraform has."""
    script = (ROOT / "deploy" / "gcp" / "cloud-config.yaml").read_text("utf-8")
    terraform = "\n".join(it.read_text("utf-8") for it in (ROOT / "deploy" / "gcp").glob("*.tf"))
    attributes = set(re.findall(r"(car-identifier-(?:image|secret|env|port|archive)\b)=", PAGE))
    assert attributes >= {"car-identifier-image", "car-identifier-secret", "car-identifier-env"}
    for attribute in attributes:
        assert f"attribute {attribute}" in script
        assert attribute in terraform
    for kind, name in re.findall(r"-target=(google_\w+)\.(\w+)", PAGE):
        assert f'resource "{kind}" "{name}"' in terraform
    for output in re.findall(r"terraform output (\w+)", PAGE):
        assert f'output "{output}"' in terraform
