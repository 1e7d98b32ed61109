"""What the worker has to reach, and whether it did: from the figures of one run."""

from __future__ import annotations

from typing import Any

from benchmarks.serving.servers import EAGER_SERVERS, LITSERVE_INT8, WORKER

__all__ = ["acceptance"]

_BUSY, _ALONE = "16", "1"
_MOST_CPU = 1.15
_LEAST_OF_CEILING = 0.85
_TIMES_EAGER = 4.0
_MOST_LATENCY = 1.3


def acceptance(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Judge `measure_all`'s results.

    Returns:
        Per kind of photo and claim that can be judged by what was measured: `photos`, `claim`,
        `ratio` (the worker's figure over what it is compared with), `worker`, `other` and `met`.
    """
    judged: list[dict[str, Any]] = []
    for kind, ceiling in results["ceiling"].items():
        at_16, alone = _of(results, WORKER, kind, _BUSY), _of(results, WORKER, kind, _ALONE)
        speed = at_16.get("photos_per_second")
        eager = [
            _of(results, name, kind, _BUSY).get("photos_per_second", 0.0) for name in EAGER_SERVERS
        ]
        int8 = _of(results, LITSERVE_INT8, kind, _BUSY).get("photos_per_second")
        compared = [
            (f"CPU-seconds a photo with 16 clients: at most {_MOST_CPU} times the ceiling's",
             at_16.get("cpu_seconds_per_photo"), ceiling["cpu_seconds_per_photo"], _MOST_CPU, -1),
            (f"throughput with 16 clients: at least {_LEAST_OF_CEILING} of the ceiling, "
             "which has the cores to itself",
             speed, ceiling["photos_per_second"], _LEAST_OF_CEILING, 1),
            (f"throughput with 16 clients: at least {_TIMES_EAGER:g} times the best eager torch",
             speed, max(eager), _TIMES_EAGER, 1),
            ("throughput with 16 clients: no less than LitServe with the same engine",
             speed, int8, 1.0, 1),
            (f"p50 with one client: at most {_MOST_LATENCY} times decoding and engine",
             alone.get("p50_ms"), ceiling["latency_ms"], _MOST_LATENCY, -1),
        ]  # fmt: skip
        for claim, worker, other, bound, sign in compared:
            if worker and other:
                ratio = worker / other
                judged.append(
                    {"photos": kind, "claim": claim, "worker": worker, "other": other,
                     "ratio": ratio, "bound": bound, "met": sign * ratio >= sign * bound}
                )  # fmt: skip
    return judged


def _of(results: dict[str, Any], name: str, kind: str, clients: str) -> dict[str, Any]:
    contestant = results["contestants"].get(name, {"measured": {}})
    figures: dict[str, Any] = contestant["measured"].get(kind, {}).get(clients, {})
    return figures
