"""The repository's own promises: commands, pins, and what may import what."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = PYPROJECT["tool"]["importlinter"]["root_packages"]


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    # As typed by hand: neither the data of this test run nor the flags of the make it runs under.
    inherited = {"CARS_DATA", "MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MFLAGS"}
    env = {name: value for name, value in os.environ.items() if name not in inherited}
    return subprocess.run(["make", *arguments], cwd=ROOT, env=env, capture_output=True, text=True)


# --- commands ---------------------------------------------------------------------------------


def test_make_without_a_target_lists_every_target() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    listed = re.findall(r"^ +make ([\w-]+) +\S", make().stdout, re.MULTILINE)
    assert listed == targets
    assert {"serve", "test", "lint", "train", "evaluate", "archive", "help"} <= set(listed)


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        (["train", "DATA=data"], "CONFIG"),
        (["evaluate", "DATA=data"], "ARCHIVE"),
        (["evaluate", "ARCHIVE=model_store/car_identifier.mar"], "DATA"),
        (["archive", "CHECKPOINT=last.ckpt", "DATA=data"], "VERSION"),
    ],
)
def test_forgotten_variable_is_one_line_with_an_example(command: list[str], missing: str) -> None:
    finished = make(*command)
    assert finished.returncode != 0
    assert finished.stderr.count("\n") == 1
    assert f"{missing} is missing; for example: make {command[0]} " in finished.stderr


# --- pins -------------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", PYPROJECT["project"]["optional-dependencies"])
def test_every_package_of_an_extra_is_pinned(extra: str) -> None:
    requirements = PYPROJECT["project"]["optional-dependencies"][extra]
    names = {canonical(re.split(r"[^\w.-]", requirement)[0]) for requirement in requirements}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert names - {"car-identifier"} <= {canonical(name) for name in pins}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


# --- imports ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("gateway/settings.py", "import torch"),
        ("gateway/settings.py", "from handler.labels import CarLabel"),
        ("gateway/settings.py", "import httpx"),
        ("client/__init__.py", "import gateway.schemas"),
        ("handler/labels.py", "import torchvision"),
        ("handler/labels.py", "from lightning_train.evaluation import metrics"),
        ("handler/engine.py", "import ts"),
        ("lightning_train/evaluation/report.py", "import handler.torchserve_handler"),
        ("lightning_train/evaluation/report.py", "import gateway.settings"),
    ],
)
def test_forbidden_import_fails_the_lint(tmp_path: Path, file: str, line: str) -> None:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / file).open("a") as module:
        module.write(f"\n{line}\n")
    lint = Path(sys.executable).with_name("lint-imports")
    finished = subprocess.run(
        [lint, "--no-logo", "--no-cache"], cwd=tmp_path, capture_output=True, text=True
    )
    assert finished.returncode == 1, finished.stdout
    module_name = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    assert f"{module_name} -> {line.split()[1]}" in finished.stdout


@pytest.mark.parametrize("path", sorted((ROOT / "deploy").glob("*.py")), ids=lambda path: path.name)
def test_deploy_runs_on_the_standard_library_alone(path: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
    assert imported <= sys.stdlib_module_names | {"deploy"}


@pytest.mark.parametrize("module", ["handler.identifier", "gateway.app", "client.cli"])
def test_serving_code_starts_without_torch(module: str) -> None:
    code = f"import sys, {module}; print('torch' in sys.modules, 'ts' in sys.modules)"
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert finished.stdout.split() == ["False", "False"]


PAGES = sorted(
    page
    for page in (*ROOT.glob("*.md"), *ROOT.glob("*/*.md"), *ROOT.glob("benchmarks/results/*.md"))
    if not page.relative_to(ROOT).parts[0].startswith((".", "runs"))
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    """Files that are there, and headings that are in them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        path, _, heading = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if heading:
            headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            assert heading in {
                re.sub(r"[^\w\- ]", "", it.lower()).replace(" ", "-") for it in headings
            }, link


def test_a_photo_is_one_to_every_part() -> None:
    """No part may import from all others, so each has its own list."""
    from bulk.sources import PHOTO_SUFFIXES as BULK
    from client.photos import PHOTO_SUFFIXES as CLIENT
    from lightning_train.data import IMAGE_SUFFIXES as TRAINING

    assert set(BULK) == set(CLIENT) == TRAINING
    told = (ROOT / "docs" / "bulk.md").read_text()
    assert all(f"`{suffix}`" in told for suffix in BULK)
