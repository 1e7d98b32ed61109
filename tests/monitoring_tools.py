"""deploy/monitoring's files, and the programs that read them."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

__all__ = [
    "DASHBOARD",
    "FOLDER",
    "alerts",
    "copy_of_the_files",
    "metric_names",
    "panels",
    "recorded",
    "selectors",
    "tool",
]

FOLDER = Path(__file__).resolve().parent.parent / "deploy" / "monitoring"
DASHBOARD = FOLDER / "grafana" / "dashboards" / "car-identifier.json"

_PACKAGES = {
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "prometheus-alertmanager": "prometheus-alertmanager",
    "amtool": "prometheus-alertmanager",
}
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_GROUPING = re.compile(r"\b(?:by|on|ignoring|without|group_left|group_right)\s*\([^)]*\)")
_OPERATORS = {"and", "or", "unless", "offset", "bool", "inf", "nan"}


def tool(name: str) -> str:
    """Where the program is; without it the test is skipped, or fails if it was required."""
    path = shutil.which(name)
    if path is None:
        message = f"needs {name}: apt-get install {_PACKAGES[name]}"
        if os.environ.get("CARID_REQUIRE_PROMETHEUS") == "1":
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    return path


def _rules() -> list[dict[str, Any]]:
    files = sorted((FOLDER / "rules").glob("*.yml"))
    groups = [group for file in files for group in yaml.safe_load(file.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    """The rules that are alerts."""
    return [rule for rule in _rules() if "alert" in rule]


def recorded() -> dict[str, str]:
    """Names of the recorded series → their expressions."""
    return {rule["record"]: rule["expr"] for rule in _rules() if "record" in rule}


def panels() -> dict[str, list[str]]:
    """Titles of the dashboard's panels → their expressions, variables and all."""
    found = json.loads(DASHBOARD.read_text())["panels"]
    return {
        panel["title"]: [target["expr"] for target in panel["targets"]]
        for panel in found
        if panel["type"] != "row"
    }


def metric_names(expression: str) -> set[str]:
    """The names of the series that an expression asks for."""
    bare = _GROUPING.sub("", _STRING.sub("", expression))
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", bare)
    found = re.findall(r"(?<![\w:.])([a-zA-Z_:][\w:]*)(?!\w*\s*\()", bare)
    return {
        name
        for name in found
        if name.lower() not in _OPERATORS and not re.search(rf"\b{name}\s*\(", bare)
    }


def selectors(expression: str) -> set[tuple[str, str]]:
    """Names of series with each of the labels that an expression asks them for."""
    found = re.findall(r"([a-zA-Z_:][\w:]*)\{((?:[^}\"]|\"[^\"]*\")*)\}", expression)
    return {
        (name, label)
        for name, matchers in found
        for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", _STRING.sub("", matchers))
    }


def copy_of_the_files(folder: Path) -> Path:
    """The files as an operator would put them beside Prometheus, with a key."""
    copied = folder / "monitoring"
    shutil.copytree(FOLDER, copied)
    (copied / "api_key").write_text("carid_key\n")
    return copied
