"""deploy/monitoring as Prometheus, Alertmanager and Grafana would read it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from monitoring_tools import (
    DASHBOARD,
    FOLDER,
    alerts,
    copy_of_the_files,
    metric_names,
    panels,
    recorded,
    tool,
)

ROOT = FOLDER.parent.parent
RUNBOOK = (ROOT / "docs" / "alerts.md").read_text()
ALERTS = {alert["alert"]: alert for alert in alerts()}
RULE_TESTS = sorted((FOLDER / "tests").glob("*.test.yml"))
# What the data source adds to an annotation, outside of the dashboard's own schema.
DATA_SOURCES_OWN = {"titleFormat", "textFormat"}


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


# --- Prometheus -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["prometheus", "prometheus.gce", "prometheus.kubernetes"])
def test_prometheus_takes_its_configuration(name: str, tmp_path: Path) -> None:
    file = copy_of_the_files(tmp_path) / f"{name}.yml"
    # Debian's build knows no Kubernetes: there all but this one section is looked at.
    kubernetes = re.compile(r"kubernetes_sd_configs:\n(?: {6}.*\n| {8}.*\n| {10}.*\n)+")
    file.write_text(kubernetes.sub("static_configs: []\n", file.read_text()))
    checked = run(tool("promtool"), "check", "config", str(file))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "2 rule files found" in checked.stdout


@pytest.mark.parametrize("name", ["prometheus", "prometheus.gce", "prometheus.kubernetes"])
def test_every_configuration_scrapes_the_job_that_the_alerts_know(name: str) -> None:
    [scrape] = yaml.safe_load((FOLDER / f"{name}.yml").read_text())["scrape_configs"]
    assert scrape["job_name"] == "car-identifier"
    assert scrape["authorization"]["credentials_file"] == "api_key"
    jobs = {job for it in ALERTS.values() for job in re.findall(r'job="([^"]*)"', it["expr"])}
    assert jobs == {"car-identifier"}


def test_the_pods_and_machines_to_scrape_are_those_that_are_deployed() -> None:
    pods = (FOLDER / "prometheus.kubernetes.yml").read_text()
    deployment = (ROOT / "deploy" / "kubernetes" / "base" / "deployment.yaml").read_text()
    assert "- name: http\n" in deployment
    assert "regex: http\n" in pods
    machines = (FOLDER / "prometheus.gce.yml").read_text()
    assert 'app = "car-identifier"' in (ROOT / "deploy" / "gcp" / "variables.tf").read_text()
    assert "labels.app=car-identifier" in machines


@pytest.mark.parametrize("file", RULE_TESTS, ids=lambda file: file.name)
def test_alerts_fire_when_they_should_and_only_then(file: Path) -> None:
    tested = run(tool("promtool"), "test", "rules", str(file))
    assert tested.returncode == 0, tested.stdout + tested.stderr


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_is_shown_firing_by_a_test(name: str) -> None:
    text = "".join(file.read_text() for file in RULE_TESTS)
    samples = [line for line in text.splitlines() if "value: 1}" in line]
    named = any(f'alertname="{name}"' in line for line in samples)
    assert named or f"alertname: {name}\n" in text


def test_broken_rules_are_noticed(tmp_path: Path) -> None:
    """The tests above can fail."""
    copied = copy_of_the_files(tmp_path)
    rules = copied / "rules" / "alerts.yml"
    written = rules.read_text()
    rules.write_text(written.replace("> 0.8", "> 0.99").replace("2m\n", "50m\n"))
    tests = sorted(str(file) for file in (copied / "tests").glob("*.test.yml"))
    tested = run(tool("promtool"), "test", "rules", *tests)
    assert tested.returncode == 1
    for name in ("CaridUploadMemory", "CaridTorchServeGone", "CaridErrorsBurnFast"):
        assert name in tested.stdout + tested.stderr


# --- alerts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_how_bad_it_is_and_what_to_do(name: str) -> None:
    alert = ALERTS[name]
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert alert["labels"]["service"] == "car-identifier"
    assert set(alert["annotations"]) == {"summary", "description", "runbook"}
    assert alert["annotations"]["runbook"] == f"docs/alerts.md#{name.lower()}"


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_has_its_section_in_the_runbook(name: str) -> None:
    section = re.search(rf"^### {name}\n(.*?)(?=^##|\Z)", RUNBOOK, re.MULTILINE | re.DOTALL)
    assert section, f"docs/alerts.md has no section {name}"
    severity = ALERTS[name]["labels"]["severity"]
    assert section.group(1).strip().startswith(f"*{severity}*")
    assert len(section.group(1).split()) > 30


def test_the_runbook_knows_no_other_alerts() -> None:
    assert set(re.findall(r"^### (Carid\w+)$", RUNBOOK, re.MULTILINE)) == set(ALERTS)


def test_alertmanager_takes_its_example() -> None:
    checked = run(tool("amtool"), "check-config", str(FOLDER / "alertmanager.yml"))
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize(
    ("alert", "receiver"), [("CaridDown", "on-call"), ("CaridVerdictDrift", "team")]
)
def test_what_is_critical_wakes_somebody(alert: str, receiver: str) -> None:
    labels = [f"{name}={value}" for name, value in ALERTS[alert]["labels"].items()]
    config = f"--config.file={FOLDER / 'alertmanager.yml'}"
    routed = run(tool("amtool"), "config", "routes", "test", config, f"alertname={alert}", *labels)
    assert routed.stdout.strip() == receiver


def test_alertmanager_silences_only_alerts_that_exist() -> None:
    rules = yaml.safe_load((FOLDER / "alertmanager.yml").read_text())["inhibit_rules"]
    matchers = [it for rule in rules for it in rule["source_matchers"] + rule["target_matchers"]]
    named = {name for matcher in matchers for name in re.findall(r"Carid\w+", matcher)}
    assert named <= set(ALERTS)


# --- Grafana ----------------------------------------------------------------------------------


def test_the_dashboard_has_nothing_that_grafanas_schema_does_not_know() -> None:
    register_default_plugins()
    written = json.loads(DASHBOARD.read_text())
    read = json.loads(JSONEncoder().encode(Dashboard.from_json(written)))
    assert list(lost(written, read)) == []


def lost(written: Any, read: Any, where: str = "") -> Iterator[str]:
    """Where something was written that is not what was read."""
    if isinstance(written, dict) and isinstance(read, dict):
        for key, value in written.items():
            if key in read:
                yield from lost(value, read[key], f"{where}.{key}")
            elif value is not None and key not in DATA_SOURCES_OWN:
                yield f"{where}.{key}"
    elif isinstance(written, list) and isinstance(read, list) and len(written) == len(read):
        for index, (one, other) in enumerate(zip(written, read, strict=True)):
            yield from lost(one, other, f"{where}[{index}]")
    elif written != read:
        yield where


def test_panels_do_not_overlap() -> None:
    taken = set[tuple[int, int]]()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        grid = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(grid["x"], grid["x"] + grid["w"])
            for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert not cells & taken, panel["title"]
        assert grid["x"] + grid["w"] <= 24, panel["title"]
        taken |= cells


def test_panels_and_their_targets_can_be_told_apart() -> None:
    found = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in found}) == len(found)
    for panel in found:
        names = [target["refId"] for target in panel.get("targets", ())]
        assert len(set(names)) == len(names), panel["title"]


@pytest.mark.parametrize("title", panels())
def test_a_panel_says_what_it_shows_and_follows_the_dashboards_choices(title: str) -> None:
    [panel] = [it for it in json.loads(DASHBOARD.read_text())["panels"] if it["title"] == title]
    assert panel["description"].endswith(".")
    assert panel["datasource"]["uid"] == "${datasource}"
    assert panel["fieldConfig"]["defaults"]["unit"]
    for target in panel["targets"]:
        assert target["datasource"]["uid"] == "${datasource}"
        assert 'job="$job"' in target["expr"] or "ALERTS" in target["expr"]
        if any(name.startswith("job:") for name in metric_names(target["expr"])):
            assert "$instance" not in target["expr"], "it is of all machines"


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    provisioning = FOLDER / "grafana" / "provisioning"
    [source] = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    interval = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == interval
    [provider] = yaml.safe_load((provisioning / "dashboards/car-identifier.yml").read_text())[
        "providers"
    ]
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"


# --- names ------------------------------------------------------------------------------------


def test_every_recorded_series_is_used() -> None:
    used = set[str]()
    for expression in (
        *(alert["expr"] for alert in ALERTS.values()),
        *(expression for expressions in panels().values() for expression in expressions),
        *recorded().values(),
    ):
        used |= metric_names(expression)
    assert set(recorded()) - used == set()


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ('sum by (job, le) (rate(a{b="c{d}"}[5m])) / on (job) x:y offset 1h', {"a", "x:y"}),
        ("a and on (job) b == 1 unless 2e9 * histogram_quantile(0.5, c)", {"a", "b", "c"}),
    ],
)
def test_the_names_in_an_expression_are_found(expression: str, names: set[str]) -> None:
    assert metric_names(expression) == names
