"""Fill the image's virtual environment: `python install.py cpu|cuda [WHEELS]`, for the Dockerfile.

Installs what the extra `serve` of pyproject.toml names, in the versions of constraints.txt. The
CPU build of torch comes from the folder of wheels if it is there, from pip's own sources if they
have it, or from PyTorch's index. Packages are not compiled here: trim.py does that, for all alike.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from deploy.bootstrap import TORCH_CPU_INDEX, Project

_PIP = [
    *(sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check"),
    *("install", "--no-cache-dir", "--no-compile", "--progress-bar=off"),
]


def main(build: str, wheels: str = "") -> None:
    """Install; ends with pip's own status where it fails."""
    project = Project.read()
    pip = [*_PIP, "--find-links", wheels] if wheels and any(Path(wheels).iterdir()) else _PIP
    if build == "cpu":
        torch = ["--no-deps", f"torch=={project.torch_version}+cpu"]
        if subprocess.run([*pip, *torch]).returncode:
            subprocess.run([*pip, "--index-url", TORCH_CPU_INDEX, *torch], check=True)
    elif build != "cuda":
        sys.exit(f"TORCH={build}: it is cpu or cuda")
    subprocess.run([*pip, "-c", "constraints.txt", *requirements(project, "serve")], check=True)


def requirements(project: Project, extra: str) -> list[str]:
    """What an extra asks for, extras of our own included: those are on no index."""
    found: list[str] = []
    for requirement in project.extras[extra]:
        own = re.fullmatch(r"car-identifier\[([\w,\s-]+)\]", requirement)
        if own:
            for included in own.group(1).split(","):
                found += requirements(project, included.strip())
        else:
            found.append(requirement)
    return sorted(set(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
