"""A VM's cloud-config: its script is run for real, against a stand-in for Google on loopback.

Only docker and iptables are replaced, by scripts that write down how they were called.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from google_stand_in import TOKEN, Google, run_google

from gateway.keys import KeyStore

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "deploy" / "gcp" / "cloud-config.yaml"
FILES = {it["path"]: it for it in yaml.safe_load(CONFIG.read_text("utf-8"))["write_files"]}
SCRIPT = FILES["/etc/car-identifier/vm.sh"]["content"]

IMAGE = f"europe-west1-docker.pkg.dev/p/r/car-identifier@sha256:{'a' * 64}"
SECRET = "projects/p/secrets/car-identifier-api-keys"


@dataclass
class Vm:
    """A machine on which the script runs."""

    folder: Path
    google: Google

    @property
    def keys_file(self) -> Path:
        return self.folder / "run" / "keys" / "api_keys.json"

    def environment(self) -> dict[str, str]:
        """What points the script at the stand-in, and at folders of the test."""
        return {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "METADATA_URL": f"{self.google.url}/metadata",
            "SECRETS_URL": f"{self.google.url}/secrets",
            "STORAGE_URL": f"{self.google.url}/storage",
            "STATE": str(self.folder / "run"),
            "ARCHIVES": str(self.folder / "archives"),
            "CARID_ID": str(os.getgid()),
            "RETRIES": "0",
        }

    def run(self, what: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(self.folder / "vm.sh"), what],
            env=self.environment(), capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    def calls(self, tool: str) -> list[list[str]]:
        """The arguments of each call so far."""
        log = self.folder / f"{tool}.log"
        return (
            [it.split("\x1f")[:-1] for it in log.read_text().splitlines()] if log.exists() else []
        )


@pytest.fixture
def vm(tmp_path: Path) -> Iterator[Vm]:
    (tmp_path / "vm.sh").write_text(SCRIPT, "utf-8")
    (tmp_path / "bin").mkdir()
    for tool in ("docker", "iptables", "curl"):
        log = tmp_path / f"{tool}.log"
        rest = {
            "docker": 'cp "$DOCKER_CONFIG/config.json" "${0%/bin/*}"',
            "iptables": "[[ $2 != --check ]]",
            "curl": f'exec {shutil.which("curl")} "$@"',
        }[tool]
        wrapper = tmp_path / "bin" / tool
        wrapper.write_text(f"#!/bin/bash\nprintf '%s\\x1f' \"$@\" >>{log}; echo >>{log}\n{rest}\n")
        wrapper.chmod(0o755)
    with run_google() as google:
        google.attributes = {"car-identifier-image": IMAGE, "car-identifier-secret": SECRET}
        yield Vm(tmp_path, google)


def add_key(vm: Vm, name: str) -> str:
    """As `carid keys create NAME --file keys.json`, and then `gcloud secrets versions add`."""
    file = vm.folder / "keys.json"
    secret = KeyStore(file).create(name)
    vm.google.secrets[SECRET] = file.read_bytes()
    return secret


# --- starting ---------------------------------------------------------------------------------


def test_container_is_the_pinned_image_with_keys_and_next_to_no_rights(vm: Vm) -> None:
    key = add_key(vm, "laptop")
    vm.google.attributes["car-identifier-env"] = "CARID_DRAIN_S=15\nCARID_TRUSTED_PROXIES=10.0.0.1"
    started = vm.run("start")
    assert started.returncode == 0, started.stderr
    (call,) = vm.calls("docker")
    assert (call[0], call[-1]) == ("run", IMAGE)
    text = " ".join(call)
    for option in (
        "--read-only",
        "--cap-drop ALL",
        "--security-opt no-new-privileges",
        "--pids-limit 4096",
        "--volume car-identifier:/var/lib/car-identifier",
        "--env CARID_API_KEYS_FILE=/etc/car-identifier/api_keys.json",
        f"--volume {vm.keys_file.parent}:/etc/car-identifier:ro",
        "--log-opt max-size=20m",
        "--publish 8000:8000",
    ):
        assert f" {option} " in text
    memory = int(call[call.index("--memory") + 1].removesuffix("k")) * 1024
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0.8 * total < memory < 0.9 * total
    settings = Path(call[call.index("--env-file") + 1]).read_text()
    assert settings.split() == ["CARID_DRAIN_S=15", "CARID_TRUSTED_PROXIES=10.0.0.1"]
    assert '"europe-west1-docker.pkg.dev": "gcr"' in (vm.folder / "config.json").read_text()
    # The gateway's own reader finds the key in what the container is given.
    found = KeyStore(vm.keys_file).find(key)
    assert found is not None
    assert found.name == "laptop"


def test_keys_can_be_read_by_the_container_and_by_nobody_else(vm: Vm) -> None:
    add_key(vm, "laptop")
    vm.run("start")
    assert stat.S_IMODE(vm.keys_file.stat().st_mode) == 0o640
    assert stat.S_IMODE(vm.keys_file.parent.stat().st_mode) == 0o750


def test_container_is_refused_the_vms_own_account(vm: Vm) -> None:
    add_key(vm, "laptop")
    vm.run("start")
    rule = ["DOCKER-USER", "--destination", "169.254.169.254", "--jump", "REJECT"]
    assert vm.calls("iptables") == [["--wait", "--check", *rule], ["--wait", "--insert", *rule]]


def test_token_is_on_no_command_line(vm: Vm) -> None:
    add_key(vm, "laptop")
    assert vm.run("start").returncode == 0
    assert len(vm.calls("curl")) > 3
    assert TOKEN not in (vm.folder / "curl.log").read_text()


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("car-identifier-image", None, "the VM's metadata has no car-identifier-image"),
        ("car-identifier-image", IMAGE.partition("@")[0] + ":1.0", "should end in @sha256:"),
        ("car-identifier-secret", None, "the VM's metadata has no car-identifier-secret"),
        ("car-identifier-env", "CARID_PORT=8000\nLD_PRELOAD=x", "'LD_PRELOAD=x' is no setting"),
        ("car-identifier-archive", "https://example.org/a.mar", "should be like gs://BUCKET/"),
        ("car-identifier-archive", "gs://models/a.mar", "has no car-identifier-archive-sha256"),
    ],
)
def test_wrong_metadata_is_one_line_and_no_container(
    vm: Vm, attribute: str, value: str | None, message: str
) -> None:
    add_key(vm, "laptop")
    vm.google.attributes.pop(attribute, None)
    if value is not None:
        vm.google.attributes[attribute] = value
    started = vm.run("start")
    assert started.returncode == 1
    assert message in started.stderr
    assert started.stderr.count("\n") == 1
    assert vm.calls("docker") == []


# --- keys -------------------------------------------------------------------------------------


def test_without_keys_nothing_is_served(vm: Vm) -> None:
    started = vm.run("start")
    assert started.returncode == 1
    assert "has the secret a version, and may the VM's account read it?" in started.stderr
    assert vm.calls("docker") == []


def test_new_and_revoked_keys_count_without_a_restart(vm: Vm) -> None:
    first = add_key(vm, "laptop")
    vm.run("start")
    gateway = KeyStore(vm.keys_file)
    second = add_key(vm, "phone")
    KeyStore(vm.folder / "keys.json").revoke("laptop")
    vm.google.secrets[SECRET] = (vm.folder / "keys.json").read_bytes()
    assert gateway.find(first) is not None
    assert vm.run("keys").returncode == 0
    assert gateway.find(first) is None
    found = gateway.find(second)
    assert found is not None
    assert found.name == "phone"


@pytest.mark.parametrize("version", [None, b"", b"carid_secret", b"[]"])
def test_bad_version_of_the_secret_leaves_the_keys_as_they_were(
    vm: Vm, version: bytes | None
) -> None:
    key = add_key(vm, "laptop")
    assert vm.run("start").returncode == 0
    if version is None:
        del vm.google.secrets[SECRET]
    else:
        vm.google.secrets[SECRET] = version
    fetched = vm.run("keys")
    assert fetched.returncode == 1
    assert fetched.stderr.startswith("error: no API keys: ")
    assert "carid_secret" not in fetched.stderr
    assert KeyStore(vm.keys_file).find(key) is not None
    # A restart while Secret Manager is away goes on with them.
    assert vm.run("start").returncode == 0
    assert len(vm.calls("docker")) == 2


# --- another model ----------------------------------------------------------------------------


def test_archive_of_a_bucket_is_checked_served_and_fetched_once(vm: Vm) -> None:
    add_key(vm, "laptop")
    archive = os.urandom(100_000)
    vm.google.objects["models/cars/car_identifier-1.2.mar"] = archive
    vm.google.attributes["car-identifier-archive"] = "gs://models/cars/car_identifier-1.2.mar"
    vm.google.attributes["car-identifier-archive-sha256"] = hashlib.sha256(archive).hexdigest()
    for _ in range(2):
        started = vm.run("start")
        assert started.returncode == 0, started.stderr
    call = vm.calls("docker")[-1]
    assert "CARID_ARCHIVE=/archives/car_identifier-1.2.mar" in call
    assert f"{vm.folder / 'archives'}:/archives:ro" in call
    assert (vm.folder / "archives" / "car_identifier-1.2.mar").read_bytes() == archive
    fetched = [it for it in vm.google.requests if it.startswith("/storage/")]
    assert fetched == ["/storage/models/cars/car_identifier-1.2.mar"]


def test_archive_that_is_not_the_one_named_is_not_served(vm: Vm) -> None:
    add_key(vm, "laptop")
    vm.google.objects["models/a.mar"] = b"something else"
    vm.google.attributes["car-identifier-archive"] = "gs://models/a.mar"
    vm.google.attributes["car-identifier-archive-sha256"] = hashlib.sha256(b"it").hexdigest()
    started = vm.run("start")
    assert started.returncode == 1
    assert "gs://models/a.mar is not what car-identifier-archive-sha256 says" in started.stderr
    assert vm.calls("docker") == []


# --- the files themselves ---------------------------------------------------------------------


def test_script_has_no_fault_that_shellcheck_knows(tmp_path: Path) -> None:
    script = tmp_path / "vm.sh"
    script.write_text(SCRIPT, "utf-8")
    shellcheck = Path(sys.executable).with_name("shellcheck")
    checked = subprocess.run([shellcheck, script], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("there is no systemd-analyze on this machine")
    units = [it for it in FILES if it.startswith("/etc/systemd/system/")]
    for path in units:
        unit = tmp_path / path.lstrip("/")
        unit.parent.mkdir(parents=True, exist_ok=True)
        unit.write_text(FILES[path]["content"], "utf-8")
    for program in ("usr/bin/docker", "bin/bash"):  # as they lie on COS
        (tmp_path / program).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / program).write_text("")
        (tmp_path / program).chmod(0o755)
    # Of COS's own units it would say that they are missing here; of these it says what is wrong.
    command = [analyze, f"--root={tmp_path}", "verify", "--recursive-errors=no", *units]
    checked = subprocess.run(command, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    assert checked.stderr == ""


def test_cloud_init_takes_the_file() -> None:
    assert CONFIG.read_text("utf-8").startswith("#cloud-config\n")
    cloud_init = shutil.which("cloud-init")
    if cloud_init is None:
        pytest.skip("there is no cloud-init on this machine")
    command = [cloud_init, "schema", "--config-file", str(CONFIG)]
    checked = subprocess.run(command, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_script_needs_only_what_cos_has() -> None:
    """No python, jq, awk or gcloud: bash's own words, coreutils, and the tools named here."""
    code = re.sub(r"(^|\s)#.*$|'[^']*'", "", SCRIPT, flags=re.MULTILINE)
    for tool in ("python", "jq", "awk", "sed", "perl", "gcloud", "gsutil", "wget"):
        assert not re.search(rf"\b{tool}\d?\b", code)
