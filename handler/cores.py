"""How many photos, or sums, can be worked at side by side."""

from __future__ import annotations

import os

__all__ = ["usable_cores"]


def usable_cores() -> int:
    """CPU cores that this process may use, which in a container may be fewer than there are."""
    affinity = getattr(os, "sched_getaffinity", None)  # neither on macOS nor on Windows
    return len(affinity(0)) if affinity else os.cpu_count() or 1
