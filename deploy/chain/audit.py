"""`make audit`: is anything in constraints.txt known to be vulnerable?

pip-audit asks OSV (https://osv.dev) about each pinned version. Its own exit status can't tell
"nothing known" from "could not ask about these", so its JSON is read. Three outcomes, three exit
statuses:

    0  asked about every package, nothing is known that was not accepted
    1  found some
    3  could not ask, so nothing is known either way

`deploy/chain/accepted.toml` holds what was looked at and accepted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from deploy.bootstrap import ROOT, BootstrapError
from deploy.chain.packages import installed_for

__all__ = ["main"]

CLEAN, FOUND, NOT_ASKED = 0, 1, 3
_OSV = "https://api.osv.dev/v1/query"
_ACCEPTED_FOR = timedelta(days=183)


class NotAskedError(Exception):
    """The service of known vulnerabilities gave no answer; the text says why."""


@dataclass(frozen=True)
class Finding:
    """A known vulnerability of a package.

    Attributes:
        package: name and version, to be shown.
        name: the canonical one.
        ids: all names of the vulnerability.
        fixed_in: versions without it.
    """

    package: str
    name: str
    ids: frozenset[str]
    fixed_in: tuple[str, ...]


def main(arguments: list[str] | None = None) -> int:
    """Ask, write the report, tell the outcome in a line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="make audit", description=__doc__)
    parser.add_argument("--pins", type=Path, default=ROOT / "constraints.txt")
    parser.add_argument("--accepted", type=Path, default=Path(__file__).with_name("accepted.toml"))
    parser.add_argument("--report", type=Path, default=ROOT / ".run" / "audit.json")
    parser.add_argument("--osv-url", default=_OSV, help="of a service that speaks as OSV does")
    options = parser.parse_args(arguments)
    try:
        accepted = read_accepted(options.accepted, datetime.now(UTC).date())
        served = installed_for("serve")
        answers = ask(options.pins, options.osv_url)
    except NotAskedError as error:
        options.report.unlink(missing_ok=True)  # an old one would pass for today's
        print(
            f"COULD NOT ASK about vulnerabilities: {error}. Nothing is known either way.",
            file=sys.stderr,
        )
        return NOT_ASKED
    except (BootstrapError, ValueError) as error:
        sys.exit(f"error: {error}")
    options.report.parent.mkdir(exist_ok=True)
    options.report.write_text(json.dumps(answers, indent=1) + "\n", "utf-8")
    found = [it for it in findings(answers) if not it.ids & accepted.keys()]
    for one in sorted(found, key=lambda it: it.name not in served):
        where = "part of the service" if one.name in served else "development only"
        fixed = ", ".join(one.fixed_in) or "no version yet"
        print(f"{one.package}  {', '.join(sorted(one.ids))}  fixed in {fixed}  ({where})")
    count = len(answers)
    if found:
        print(f"FOUND {len(found)} known vulnerabilities in {count} packages", file=sys.stderr)
        return FOUND
    print(f"no known vulnerability in {count} packages, {len(accepted)} accepted")
    return CLEAN


def ask(pins: Path, osv_url: str) -> list[dict[str, Any]]:
    """pip-audit's answer for each package of a file of pins.

    Raises:
        NotAskedError: there is none for all or for some of them.
    """
    finished = subprocess.run(
        [sys.executable, "-m", "pip_audit", "--requirement", str(pins), "--no-deps",
         "--disable-pip", "--format", "json", "--progress-spinner", "off",
         "--vulnerability-service", "osv", "--osv-url", osv_url, "--timeout", "20"],
        capture_output=True,
        text=True,
    )  # fmt: skip
    try:
        answers: list[dict[str, Any]] = json.loads(finished.stdout)["dependencies"]
    except (ValueError, LookupError):
        last = finished.stderr.strip().splitlines()[-1:] or ["pip-audit said nothing"]
        raise NotAskedError(f"{osv_url} gave no answer ({last[0][:300]})") from None
    skipped = [it for it in answers if "skip_reason" in it]
    if skipped or not answers:
        names = ", ".join(it["name"] for it in skipped[:5]) or "any package"
        raise NotAskedError(f"no answer about {len(skipped)} of {len(answers)} packages ({names})")
    return answers


def findings(answers: list[dict[str, Any]]) -> list[Finding]:
    """What is known, of all packages."""
    return [
        Finding(
            f"{package['name']} {package['version']}",
            canonicalize_name(package["name"]),
            frozenset((known["id"], *known.get("aliases", ()))),
            tuple(known.get("fix_versions", ())),
        )
        for package in answers
        for known in package["vulns"]
    ]


def read_accepted(file: Path, today: date) -> Mapping[str, str]:
    """Vulnerabilities that were accepted within the last half year → why.

    Raises:
        ValueError: an entry lacks its id, reason or date.
    """
    accepted = {}
    for entry in tomllib.loads(file.read_text("utf-8")).get("accepted", ()):
        match entry:
            case {"id": str(name), "reason": str(reason), "date": date() as when} if reason:
                if today - when <= _ACCEPTED_FOR:
                    accepted[name] = reason
            case _:
                raise ValueError(f"{file.name}: {entry} needs an id, a reason and a date")
    return accepted


if __name__ == "__main__":
    sys.exit(main())
