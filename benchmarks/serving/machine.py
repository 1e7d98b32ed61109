"""What the figures were measured on, and what processes have used of it."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from handler.cores import usable_cores as cores

__all__ = [
    "busy_seconds",
    "cores",
    "cpu_model",
    "cpu_seconds",
    "family",
    "memory_bytes",
    "versions",
]

_PACKAGES = (
    "openvino", "torch", "pillow", "torchserve", "fastapi", "uvicorn", "flask", "waitress",
    "litserve", "bentoml",
)  # fmt: skip


def cpu_model() -> str:
    """The processor's name, as far as the system tells it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def versions() -> dict[str, str]:
    """Versions of what the contestants are made of, as far as it is installed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def cpu_seconds(family: Iterable[psutil.Process]) -> float:
    """User and system time that processes and their ended children have used so far."""
    total = 0.0
    for process in family:
        with suppress(psutil.NoSuchProcess):  # ended meanwhile: its parent has its time
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def memory_bytes(family: Iterable[psutil.Process]) -> int:
    """Proportional set size of processes: memory that several share counts once."""
    total = 0
    for process in family:
        with suppress(psutil.NoSuchProcess):
            total += process.memory_full_info().pss
    return total


def busy_seconds() -> float:
    """CPU time of all cores and processes so far, with what a hypervisor took."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


def family(pid: int, but: str | None = None) -> list[psutil.Process]:
    """A process and all that descend from it.

    Args:
        pid: the first process.
        but: leaves out those with this argument in their command line.
    """
    first = psutil.Process(pid)
    return [it for it in (first, *first.children(recursive=True)) if but not in it.cmdline()]
