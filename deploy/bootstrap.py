"""Make `.venv` and install one role of the project into it.

    python3.11 deploy/bootstrap.py serve

The Makefile runs this before each command, so that the command is the only one a fresh machine
needs. It uses nothing but the standard library, prints a line per step, keeps pip's own words in
`.run/bootstrap.log`, and is over at once when what is asked for is already there.

Roles are the extras of pyproject.toml; versions are those of constraints.txt.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
LOG = ROOT / ".run" / "bootstrap.log"
PYTHON_VERSION = (3, 11)
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"


class BootstrapError(Exception):
    """The set-up cannot go on; the message tells the reader what to do."""


def main() -> int:
    """Install the role named on the command line; returns the exit code."""
    try:
        require_python(sys.version_info[:2], sys.executable)
        parser = argparse.ArgumentParser(description="Set up .venv for one role of the project.")
        parser.add_argument("role", choices=sorted(Project.read().extras))
        role = parser.parse_args().role
        with only_one_setup_at_a_time():
            install(role)
    except BootstrapError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted: the same command goes on where this one stopped", file=sys.stderr)
        return 130
    return 0


def require_python(version: tuple[int, ...], executable: str) -> None:
    """Raise unless this is the Python that every pin was tested with."""
    if version != PYTHON_VERSION:
        wanted, found = ".".join(map(str, PYTHON_VERSION)), ".".join(map(str, version))
        raise BootstrapError(
            f"Car Identifier needs Python {wanted}, and {executable} is Python {found}: install "
            f"Python {wanted}, or name one: make PYTHON=/path/to/python{wanted} …"
        )


class Project:
    """What pyproject.toml and constraints.txt say about installing."""

    def __init__(self, pyproject: dict[str, Any], constraints: str) -> None:
        self._project = pyproject["project"]
        self.extras: dict[str, list[str]] = self._project["optional-dependencies"]
        # Only what pip acts on: a changed linter setting is no reason to install anything again.
        installed_from = [self._project, pyproject["build-system"], pyproject["tool"]["setuptools"]]
        text = json.dumps(installed_from, sort_keys=True) + constraints
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()
        found = re.search(r"^torch==([\w.]+)", constraints, re.MULTILINE)
        self.torch_version = found.group(1) if found else None

    @classmethod
    def read(cls, root: Path = ROOT) -> Project:
        """Read the two files of the repository at `root`."""
        import tomllib  # only here: it is not in the Pythons that require_python turns away

        constraints = (root / "constraints.txt").read_text("utf-8")
        return cls(tomllib.loads((root / "pyproject.toml").read_text("utf-8")), constraints)

    def closure(self, extra: str) -> set[str]:
        """The extra with all extras it includes, and the names of the packages they ask for."""
        names = {extra}
        for requirement in self.extras[extra]:
            own = re.fullmatch(re.escape(self._project["name"]) + r"\[([\w,\s-]+)\]", requirement)
            if own:
                for included in own.group(1).split(","):
                    names |= self.closure(included.strip())
            else:
                names.add(re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower())
        return names


class Stamp:
    """What an earlier run installed, kept inside `.venv` so that the two go together."""

    path = VENV / "car-identifier.json"

    def __init__(self) -> None:
        try:
            self._content = json.loads(self.path.read_text("utf-8"))
        except (OSError, ValueError):
            self._content = {}

    @property
    def roles(self) -> set[str]:
        """The roles that were asked for."""
        return set(self._content.get("roles", []))

    def venv_is_usable(self) -> bool:
        """Whether `.venv` was made here (its scripts hold absolute paths) and its Python exists."""
        return bool(self._content.get("root") == str(ROOT) and (VENV / "bin" / "python").exists())

    def is_current(self, project: Project) -> bool:
        """Whether what was installed is what the project's files ask for today."""
        return bool(self._content.get("fingerprint") == project.fingerprint)

    def write(self, project: Project, roles: set[str]) -> None:
        """Record a finished set-up, or with no roles one that is under way."""
        content = {
            "root": str(ROOT),
            "fingerprint": project.fingerprint,
            "roles": sorted(roles),
        }
        self.path.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
        self._content = content


def install(role: str) -> None:
    """Bring `.venv` to the state that the role needs; returns at once if it has it."""
    project, stamp = Project.read(), Stamp()
    roles = {name for name in stamp.roles if name in project.extras}
    covered: set[str] = set().union(*(project.closure(name) for name in roles))
    if stamp.venv_is_usable() and stamp.is_current(project) and role in covered:
        return
    LOG.parent.mkdir(exist_ok=True)
    LOG.write_text("", "utf-8")
    if not stamp.venv_is_usable():
        make_venv()
    roles |= {role}
    stamp.write(project, set())  # until pip is through, .venv is good for nothing
    if any("torch" in project.closure(name) for name in roles):
        install_cpu_torch(project.torch_version)
    target = f".[{','.join(sorted(roles))}]"
    if not step(f"installing {target}", pip("install", "-c", "constraints.txt", "-e", target)):
        raise BootstrapError(f"pip could not install {target}: its output is above and in {LOG}")
    stamp.write(project, roles)


def make_venv() -> None:
    """Create `.venv` afresh from the Python that runs this."""
    # From inside an activated .venv, sys.executable would be the very file that --clear removes.
    base = getattr(sys, "_base_executable", sys.executable)
    title = "making .venv anew: this one is not from here" if VENV.exists() else "creating .venv"
    if not step(title, [base, "-m", "venv", "--clear", str(VENV)]):
        raise BootstrapError(
            "this Python could not make a virtual environment (on Debian and Ubuntu: "
            "apt install python3.11-venv)"
        )


def install_cpu_torch(version: str | None) -> None:
    """Install the CPU build of torch where the ordinary one would be gigabytes of idle CUDA.

    Leaves torch to the ordinary install where that is right (an NVIDIA GPU, macOS) or where no CPU
    build can be had. Dependencies are left to it too, so that they follow constraints.txt.
    """
    if version is None or sys.platform == "darwin" or has_nvidia_gpu() or torch_is(version):
        return
    build = f"torch=={version}+cpu"
    sources = {
        # Fails at once if neither the user's indexes nor the wheel folders have the CPU build.
        "your pip's own sources": pip("install", "--no-deps", build),
        # No retries: behind a firewall this costs seconds, not minutes.
        "the PyTorch CPU index": pip(
            "install", "--no-deps", "--index-url", TORCH_CPU_INDEX,
            "--timeout", "10", "--retries", "0", build,
        ),
    }  # fmt: skip
    for source, command in sources.items():
        if step(f"installing {build} from {source}", command, may_fail=True):
            return
    print("no CPU build of torch to be had: the ordinary one brings CUDA with it, several GB")


def has_nvidia_gpu() -> bool:
    """Whether an NVIDIA driver answers."""
    nvidia_smi = shutil.which("nvidia-smi")
    if nvidia_smi is None:
        return False
    with contextlib.suppress(subprocess.TimeoutExpired):
        return subprocess.run([nvidia_smi], capture_output=True, timeout=60).returncode == 0
    return False


def torch_is(version: str) -> bool:
    """Whether `.venv` has this version of torch, whatever the build."""
    code = "import importlib.metadata as m; print(m.version('torch').partition('+')[0])"
    found = subprocess.run([VENV / "bin" / "python", "-c", code], capture_output=True, text=True)
    return found.stdout.strip() == version


def pip(*arguments: str) -> list[str]:
    """The command line of `.venv`'s own pip."""
    quiet = ["--no-input", "--disable-pip-version-check"]
    return [str(VENV / "bin" / "python"), "-m", "pip", *quiet, *arguments, "--progress-bar=off"]


def step(title: str, command: list[str], *, may_fail: bool = False) -> bool:
    """Run one command under one line of console output; its own output goes to the log.

    Args:
        title: what is being done, for the reader.
        command: run in the repository root.
        may_fail: a failure is an answer; otherwise the end of the command's output is shown.

    Returns:
        Whether the command succeeded.
    """
    started = time.monotonic()
    with LOG.open("a+", encoding="utf-8", errors="replace") as log:
        log.write(f"$ {shlex.join(command)}\n")
        log.flush()
        output_starts = log.tell()
        print(f"{title} … ", end="", flush=True)
        with subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        ) as process:
            while process.poll() is None:
                time.sleep(0.1)
                if sys.stdout.isatty():
                    print(f"\r{title} … {time.monotonic() - started:.0f} s ", end="", flush=True)
        succeeded = process.returncode == 0
        outcome = "done" if succeeded else "not there" if may_fail else "failed"
        ending = f"{title} … {outcome} ({time.monotonic() - started:.0f} s)"
        print(f"\r{ending}" if sys.stdout.isatty() else ending.removeprefix(f"{title} … "))
        if not succeeded and not may_fail:
            log.seek(output_starts)
            print(*log.read().splitlines()[-30:], sep="\n", file=sys.stderr)
    return succeeded


@contextlib.contextmanager
def only_one_setup_at_a_time() -> Iterator[None]:
    """Keep `make serve` and `make test` in two terminals from filling one `.venv` at once."""
    directory = os.open(ROOT, os.O_RDONLY)
    try:
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another set-up that is running here …", flush=True)
            fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


if __name__ == "__main__":
    sys.exit(main())
