"""The image under docker or podman: run as docs/container.md says, asked, measured, removed."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.service import BenchmarkError

__all__ = ["HARDENED", "STOP_TIMEOUT", "Container", "Memory", "engine", "running"]

_ENGINE = Path(__file__).resolve().parents[1] / "deploy" / "container" / "engine"
HARDENED = (
    *("--read-only", "--cap-drop=ALL", "--security-opt", "no-new-privileges"),
    *("--memory", "2g", "--pids-limit", "512"),
)
_START_TIMEOUT = 120.0
# Above the drain, the last answers and TorchServe's own end.
STOP_TIMEOUT = 60
_CGROUPS = Path("/sys/fs/cgroup")


def engine(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run docker or podman, whichever is there.

    Raises:
        BenchmarkError: it fails, and `check` is on.
    """
    finished = subprocess.run(  # noqa: S603  (our own arguments)
        [str(_ENGINE), *arguments], capture_output=True, text=True, timeout=200
    )
    if check and finished.returncode:
        raise BenchmarkError(f"{' '.join(arguments)}: {finished.stderr.strip()}")
    return finished


@dataclass(frozen=True, slots=True)
class Memory:
    """Of all processes of a container together, in MB.

    Attributes:
        working_set: what a limit counts, less the cached files that would be given up first.
        anonymous: what processes allocated.
    """

    working_set: float
    anonymous: float


@dataclass
class Container:
    """A container of the image; `url` is its published port, once it is ready."""

    name: str
    url: str = ""

    def log(self) -> str:
        """All that it has printed."""
        finished = engine("logs", self.name)
        return finished.stdout + finished.stderr

    def first_key(self) -> str:
        """The API key that it has shown."""
        keys: set[str] = set(re.findall(r"carid_[\w-]{43}", self.log()))
        [key] = keys
        return key

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in it."""
        return engine("exec", self.name, *command, check=check)

    def state(self) -> dict[str, Any]:
        """What the engine says of it: `Status`, `ExitCode`, `Pid` and more."""
        [found] = json.loads(engine("inspect", self.name).stdout)
        state: dict[str, Any] = found["State"]
        return state

    def exit_code(self, timeout: float) -> int:
        """How it ended.

        Raises:
            BenchmarkError: it has not, after so many seconds.
        """
        deadline = time.monotonic() + timeout
        while (state := self.state())["Status"] == "running":
            if time.monotonic() > deadline:
                raise BenchmarkError(f"it still runs after {timeout} s:\n{self.log()[-2000:]}")
            time.sleep(0.2)
        return int(state["ExitCode"])

    def restart(self) -> None:
        """Stop and start it again, on the same files, and wait until it is ready."""
        engine("stop", "-t", str(STOP_TIMEOUT), self.name)
        engine("start", self.name)
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Return once a photo would be answered.

        Raises:
            BenchmarkError: that does not come about.
        """
        self.url = "http://" + engine("port", self.name, "8000").stdout.splitlines()[0].strip()
        deadline = time.monotonic() + _START_TIMEOUT
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while True:
            try:
                with opener.open(f"{self.url}/readyz", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                if self.state()["Status"] != "running" or time.monotonic() > deadline:
                    raise BenchmarkError(f"it is not ready:\n{self.log()}") from None
            time.sleep(0.1)

    def memory(self) -> Memory:
        """What it takes now, as the kernel counts it on this machine (cgroups, old or new)."""
        folder, is_new = self._cgroup()
        used = int((folder / ("memory.current" if is_new else "memory.usage_in_bytes")).read_text())
        parts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        cached = int(parts["inactive_file" if is_new else "total_inactive_file"])
        anonymous = int(parts["anon" if is_new else "total_rss"])
        return Memory((used - cached) / 2**20, anonymous / 2**20)

    def killed_for_memory(self) -> int:
        """How many of its processes the kernel has ended for want of memory."""
        folder, is_new = self._cgroup()
        text = (folder / ("memory.events" if is_new else "memory.oom_control")).read_text()
        return int(dict(line.split() for line in text.splitlines())["oom_kill"])

    def _cgroup(self) -> tuple[Path, bool]:
        lines = Path(f"/proc/{self.state()['Pid']}/cgroup").read_text().splitlines()
        for line in lines:
            _, controllers, path = line.split(":", 2)
            if "memory" in controllers.split(","):
                return _CGROUPS / "memory" / path.lstrip("/"), False
        return _CGROUPS / lines[-1].split(":", 2)[2].lstrip("/"), True


@contextmanager
def running(image: str, *options: str, wait: bool = True) -> Iterator[Container]:
    """A hardened container until the end of the `with` block.

    Args:
        image: its name.
        options: more of those of `docker run`; of one given twice the last counts.
        wait: until it is ready.
    """
    # Podman mounts a /tmp into what is read-only, Docker does not: it has to do without.
    no_tmpfs = ["--read-only-tmpfs=false"] if "podman" in engine("--version").stdout else []
    command = ["run", "-d", *HARDENED, *no_tmpfs, "-p", "127.0.0.1::8000", *options, image]
    container = Container(engine(*command).stdout.strip())
    try:
        if wait:
            container.wait_until_ready()
        yield container
    finally:
        engine("rm", "-f", "-v", container.name, check=False)
