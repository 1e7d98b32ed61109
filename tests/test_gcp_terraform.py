"""deploy/gcp as Terraform and Google's provider would read it; nothing here asks Google."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import google_provider
import pytest
import yaml
from google_provider import FOLDER, parse, resources, wrong_arguments, wrong_references
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from deploy.options import Options
from gateway.settings import Settings

FILES = sorted(FOLDER.glob("*.tf"))
TEXT = "\n".join(file.read_text("utf-8") for file in FILES)
SCHEMA = google_provider.read_schema()
EXAMPLE = FOLDER / "terraform.tfvars.example"


def blocks(kind: str) -> dict[str, dict[str, Any]]:
    """The arguments of all resources of one type, by name; plain strings without their quotes."""
    return {name: unquoted(it) for type_, name, it in resources(parse(TEXT)) if type_ == kind}


def unquoted(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: unquoted(it) for name, it in value.items()}
    if isinstance(value, list):
        return [unquoted(it) for it in value]
    return value.strip('"') if isinstance(value, str) else value


def local_values() -> dict[str, Any]:
    return {name: unquoted(it[name]) for it in parse(TEXT)["locals"] for name in it}


# --- would Terraform take it? -----------------------------------------------------------------


@pytest.mark.parametrize("file", FILES, ids=lambda it: it.name)
def test_provider_knows_every_argument_and_gets_those_it_needs(file: Path) -> None:
    found = [
        problem
        for kind, name, arguments in resources(parse(file.read_text("utf-8")))
        for problem in wrong_arguments(arguments, SCHEMA[kind], f"{kind}.{name}")
    ]
    assert found == []


def test_everything_referred_to_is_declared() -> None:
    assert wrong_references(TEXT, parse(TEXT), SCHEMA) == []


@pytest.mark.parametrize(
    ("right", "wrong", "problem"),
    [
        ("initial_delay_sec", "initial_delay", "auto_healing_policies needs initial_delay_sec"),
        ("  port_name ", "  port_names ", "has no argument or block port_names"),
        (
            "max_surge_fixed",
            "max_surge_fix",
            "update_policy has no argument or block max_surge_fix",
        ),
        ("    auto {}", "    auto = true", "replication: auto is a block"),
        ("google_service_account.vm.email", "google_service_account.vm.mail", "no attribute mail"),
        ("var.machine_type", "var.machine", "var.machine is not declared"),
        ("local.finish_s", "local.finish", "local.finish is not declared"),
        ("_health_check.healing.", "_health_check.heal.", "heal is not declared"),
    ],
)
def test_a_slip_would_be_found(right: str, wrong: str, problem: str) -> None:
    assert right in TEXT
    text = TEXT.replace(right, wrong)
    found = wrong_references(text, parse(text), SCHEMA)
    for kind, name, arguments in resources(parse(text)):
        found += wrong_arguments(arguments, SCHEMA[kind], f"{kind}.{name}")
    assert any(problem in it for it in found), found


def terraform(*arguments: str, cwd: Path = FOLDER) -> subprocess.CompletedProcess[str]:
    if shutil.which("terraform") is None:
        pytest.skip("there is no terraform on this machine")
    command = ["terraform", *arguments]
    env = {**os.environ, "CHECKPOINT_DISABLE": "1"}  # no look for a newer version
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=60)


def test_files_are_formatted_as_terraform_would() -> None:
    formatted = terraform("fmt", "-check", "-diff")
    assert formatted.returncode == 0, formatted.stdout


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", None),
        ('project = "My Project"', "A project's id has 6 to 30 small letters"),
        ('region = "europe-west1-b"', "not a zone"),
        ('domains = ["https://cars.example.org"]', "no scheme"),
        ("domains = []", "One host name or more"),
        ('image = "europe-west1-docker.pkg.dev/a/b/car-identifier:1.0"', "sha256"),
        ("replicas = { min = 3, max = 2 }", "At least one VM"),
        ('environment = { CARID_ARCHIVE = "x" }', "are set by this folder"),
        ('environment = { PATH = "x" }', "Names start with CARID_"),
        ('environment = { CARID_RATE_PER_MINUTE = "1200" }', None),
        ('archive = { uri = "gs://models/a-1.2.mar", sha256 = "abc" }', "hexadecimal digits"),
        ("disk_gb = 10", "At least 20 GB"),
    ],
)
def test_wrong_value_is_refused_with_what_to_do(
    tmp_path: Path, line: str, message: str | None
) -> None:
    """variables.tf alone needs no provider, so that Terraform itself can judge values here."""
    shutil.copy(FOLDER / "variables.tf", tmp_path)
    name = line.partition(" ")[0]
    kept = [
        it for it in EXAMPLE.read_text("utf-8").splitlines() if not name or not it.startswith(name)
    ]
    (tmp_path / "terraform.tfvars").write_text("\n".join([*kept, line]), "utf-8")
    planned = terraform("plan", "-input=false", "-no-color", cwd=tmp_path)
    if message is None:
        assert planned.returncode == 0, planned.stderr
    else:
        assert planned.returncode != 0
        assert message in " ".join(planned.stderr.replace("│", " ").split())


def test_terraform_works_out_the_settings_that_a_vms_script_takes(tmp_path: Path) -> None:
    """The files' locals and the template's own expression, with an address in its place."""
    shutil.copy(FOLDER / "variables.tf", tmp_path)
    shutil.copy(EXAMPLE, tmp_path / "terraform.tfvars")
    blocks_of_locals = re.findall(r"^locals \{\n.*?^\}$", TEXT, re.DOTALL | re.MULTILINE)
    text = "\n".join(blocks_of_locals).replace(
        "google_compute_global_address.this.address", '"198.51.100.1"'
    )
    expression = re.search(r"car-identifier-env += (join.*)", TEXT)
    assert expression is not None
    text += f'\noutput "lines" {{\n  value = {expression[1]}\n}}\n'
    (tmp_path / "locals.tf").write_text(text, "utf-8")
    variables = ["-var", 'environment={"CARID_DRAIN_S"="9","CARID_RATE_PER_MINUTE"="1200"}']
    applied = terraform("apply", "-auto-approve", "-no-color", *variables, cwd=tmp_path)
    assert applied.returncode == 0, applied.stderr
    lines = json.loads(terraform("output", "-json", "lines", cwd=tmp_path).stdout).splitlines()
    assert sorted(lines) == [
        "CARID_DRAIN_S=9",  # the operator's word
        "CARID_KEEP_ALIVE_S=620",
        "CARID_RATE_PER_MINUTE=1200",
        "CARID_TRUSTED_PROXIES=35.191.0.0/16,130.211.0.0/22,198.51.100.1",
    ]


# --- what it would make -----------------------------------------------------------------------


def test_nothing_but_the_balancer_reaches_the_vms_and_they_reach_nothing() -> None:
    (template,) = blocks("google_compute_instance_template").values()
    assert all("access_config" not in it for it in template["network_interface"])
    rules = blocks("google_compute_firewall")
    assert rules.keys() == {"balancer", "iap_ssh"}
    assert rules["balancer"]["source_ranges"] == "${local.balancer_ranges}"
    assert rules["balancer"]["allow"][0]["ports"] == ["${tostring(local.service_port)}"]
    assert local_values()["balancer_ranges"] == ["35.191.0.0/16", "130.211.0.0/22"]
    assert local_values()["service_port"] == 8000
    assert rules["iap_ssh"]["source_ranges"] == ["35.235.240.0/20"]
    assert "count = var.allow_iap_ssh ? 1 : 0" in TEXT
    assert "google_compute_router" not in TEXT
    (subnetwork,) = blocks("google_compute_subnetwork").values()
    assert subnetwork["private_ip_google_access"] is True


def test_the_vms_account_may_do_four_things() -> None:
    granted = re.findall(r'"(roles/[\w.]+)"', TEXT)
    assert sorted(granted) == [
        "roles/artifactregistry.reader",
        "roles/logging.logWriter",
        "roles/monitoring.metricWriter",
        "roles/secretmanager.secretAccessor",
        "roles/storage.objectViewer",  # of the one bucket, if an archive in it is named
    ]


def test_an_update_takes_no_vm_away_before_its_successor_answers_photos() -> None:
    (group,) = blocks("google_compute_region_instance_group_manager").values()
    (policy,) = group["update_policy"]
    assert (policy["max_unavailable_fixed"], policy["max_surge_fixed"]) == (0, 3)
    (healing,) = group["auto_healing_policies"]
    assert healing["health_check"] == "${google_compute_health_check.healing.self_link}"
    for check in blocks("google_compute_health_check").values():
        assert check["http_health_check"][0]["request_path"] == "/readyz"


def test_a_vm_is_replaced_only_after_its_container_had_time_to_mend_itself() -> None:
    unready_timeout = 300  # CARID_UNREADY_TIMEOUT in the image
    check = blocks("google_compute_health_check")["healing"]
    patience = check["check_interval_sec"] * check["unhealthy_threshold"]
    assert patience >= unready_timeout + 180  # CARID_STARTUP_TIMEOUT


def test_stopping_a_vm_leaves_time_for_every_request_and_beats_compute_engine() -> None:
    config = yaml.safe_load((FOLDER / "cloud-config.yaml").read_text("utf-8"))
    unit = next(it["content"] for it in config["write_files"] if it["path"].endswith("ier.service"))
    stop = int(re.search(r"docker stop -t (\d+)", unit)[1])  # type: ignore[index]
    timeout = int(re.search(r"TimeoutStopSec=(\d+)", unit)[1])  # type: ignore[index]
    drain = local_values()["drain_s"]
    assert drain + 30 + 15 < stop < timeout < 90
    check = blocks("google_compute_health_check")["balancing"]
    assert check["check_interval_sec"] * check["unhealthy_threshold"] < drain
    (backend,) = blocks("google_compute_backend_service").values()
    assert backend["connection_draining_timeout_sec"] == "${local.finish_s}"
    assert local_values()["finish_s"] >= 30


def test_settings_of_the_vms_are_ones_that_the_service_has() -> None:
    named = set(re.findall(r"\bCARID_[A-Z0-9_]+", local_values()["environment"]))
    assert len(named) >= 3
    gateways = {f"CARID_{name.upper()}" for name in Settings.model_fields}
    assert named <= gateways | {f"CARID_{it.name.upper()}" for it in dataclasses.fields(Options)}


def test_the_gateway_hangs_up_after_googles_proxies_do() -> None:
    kept = re.search(r'CARID_KEEP_ALIVE_S = "(\d+)"', local_values()["environment"])
    assert kept is not None
    assert int(kept[1]) > 600


def test_callers_behind_the_balancer_are_told_apart() -> None:
    """Google adds the caller's address and the balancer's own to what the caller sent."""
    balancer = "198.51.100.1"
    proxies = local_values()["environment"]
    assert "concat(local.balancer_ranges, [google_compute_global_address.this.address])" in proxies
    trusted = ",".join([*local_values()["balancer_ranges"], balancer])
    forwarded = f"6.6.6.6, 203.0.113.7, {balancer}"
    assert caller(trusted, forwarded, peer="35.191.3.4") == "203.0.113.7"
    assert caller(trusted, forwarded, peer="10.10.0.9") == "10.10.0.9"  # no proxy of Google's


def caller(trusted: str, forwarded: str, peer: str) -> str:
    """Whom the gateway takes for the caller: uvicorn finds out, run as in gateway/server.py."""
    seen = []

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        seen.append(scope["client"][0])

    headers = [(b"x-forwarded-for", forwarded.encode()), (b"x-forwarded-proto", b"https")]
    scope: Any = {"type": "http", "scheme": "http", "client": (peer, 1), "headers": headers}
    asyncio.run(ProxyHeadersMiddleware(app, trusted)(scope, None, None))  # type: ignore[arg-type]
    return str(seen[0])
