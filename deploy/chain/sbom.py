"""`make sbom`: what the service is made of, as CycloneDX JSON in .run/sbom.json.

Holds the Python packages that the extra `serve` installs, as they are in this `.venv`, with
versions, licences and who needs whom; the bundled archive with its hash; and the Debian packages of
the image, where their list is given:

    docker run --rm --entrypoint dpkg-query car-identifier -W > packages.txt
    make sbom ARGS='--debian packages.txt'
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from deploy.bootstrap import ROOT, BootstrapError
from deploy.chain.packages import installed_for

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Write the file; returns the exit status."""
    parser = argparse.ArgumentParser(prog="make sbom", description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / ".run" / "sbom.json")
    parser.add_argument("--archive", type=Path, default=ROOT / "model_store" / "car_identifier.mar")
    parser.add_argument("--debian", type=Path, help="what dpkg-query -W prints in the image")
    options = parser.parse_args(arguments)
    try:
        parts = only(environment(), set(installed_for("serve")))
        parts["components"].append(archive(options.archive))
        if options.debian:
            parts["components"] += debian(options.debian.read_text("utf-8"))
    except (BootstrapError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps(parts, indent=1) + "\n", "utf-8")
    print(f"{options.output}: {len(parts['components'])} components")
    return 0


def environment() -> dict[str, Any]:
    """What cyclonedx-py says of all packages beside this interpreter."""
    finished = subprocess.run(
        [sys.executable, "-m", "cyclonedx_py", "environment", sys.executable,
         "--pyproject", str(ROOT / "pyproject.toml"), "--mc-type", "application",
         "--output-reproducible", "--output-format", "JSON", "--spec-version", "1.6"],
        capture_output=True,
        text=True,
    )  # fmt: skip
    if finished.returncode:
        raise ValueError(finished.stderr.strip())
    parts: dict[str, Any] = json.loads(finished.stdout)
    return parts


def only(parts: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """The packages of those names, and how they depend on each other."""
    kept = [it for it in parts["components"] if canonicalize_name(it["name"]) in names]
    for package in kept:  # a package that was installed from a file tells where it lay
        package.pop("externalReferences", None)
    root = parts["metadata"]["component"]
    root.pop("externalReferences", None)
    references = {root["bom-ref"], *(it["bom-ref"] for it in kept)}
    graph = [
        {**node, "dependsOn": sorted(references.intersection(node.get("dependsOn", ())))}
        for node in parts.get("dependencies", ())
        if node["ref"] in references
    ]
    return {**parts, "components": kept, "dependencies": graph}


def archive(path: Path) -> dict[str, Any]:
    """The model: not from any registry, so its hash is its identity."""
    with zipfile.ZipFile(path) as content:
        version = json.loads(content.read("model.json"))["version"]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {
        "type": "machine-learning-model",
        "bom-ref": f"archive:{path.name}",
        "name": path.name,
        "version": version,
        "hashes": [{"alg": "SHA-256", "content": digest}],
        "licenses": [{"license": {"name": "non-commercial research only, as its training data"}}],
    }


def debian(listing: str) -> list[dict[str, Any]]:
    """The packages of a listing with a name and a version per line."""
    packages = []
    for line in listing.splitlines():
        name, _, version = line.partition("\t")
        name = name.partition(":")[0]
        if not version:
            raise ValueError(f"{line!r} is no line of dpkg-query -W: a name, a tab, a version")
        purl = f"pkg:deb/debian/{name}@{version.replace(':', '%3A').replace('+', '%2B')}"
        packages.append(
            {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
        )
    return packages


if __name__ == "__main__":
    sys.exit(main())
