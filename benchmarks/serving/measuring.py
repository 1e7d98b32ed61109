"""One run of the benchmark: contestants in turn, over rounds, into plain figures."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.service import BenchmarkError
from benchmarks.serving.load import Load
from benchmarks.serving.machine import busy_seconds, cores, cpu_seconds, family, memory_bytes
from benchmarks.serving.servers import EAGER_SERVERS, SERVERS, Target, running
from benchmarks.serving.stand_in import Contest

__all__ = ["CEILING_BATCH", "Plan", "measure_all"]

CEILING_BATCH = 8
# Warming up ends no sooner than this share of the measured time.
_WARMUP = 0.25


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured.

    Attributes:
        servers: names of `SERVERS`; the ceiling is always measured.
        kinds: of photos.
        clients: how many at once, one measurement each.
        seconds: length of a measurement.
        rounds: how often each is measured. Eager torch, several times slower than the rest, is
            measured once only: its servers are spread over the rounds.
    """

    servers: Sequence[str]
    kinds: Sequence[str]
    clients: Sequence[int]
    seconds: float
    rounds: int

    def of_round(self, number: int) -> Iterable[str]:
        """The servers of a round, from 0."""
        slow = [name for name in self.servers if name in EAGER_SERVERS]
        return [
            it for it in self.servers if it not in slow or slow.index(it) % self.rounds == number
        ]


def measure_all(plan: Plan, contest: Contest, photos: Path, run_dir: Path) -> dict[str, Any]:
    """Measure everything.

    Args:
        plan: what.
        contest: the network.
        photos: holds a folder per kind.
        run_dir: gets what servers write.

    Returns:
        `ceiling` by kind; `contestants` by name: their peak memory and, by kind and number of
        clients, their figures, each with the rounds it was made of; and `others_share`, the share
        of the cores that processes took which have no part in it.
    """
    ceilings: dict[str, list[dict[str, Any]]] = {kind: [] for kind in plan.kinds}
    cells: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    photo = next((photos / plan.kinds[0]).glob("*.jpg")).read_bytes()
    for number in range(plan.rounds):
        for kind in plan.kinds:
            print(f"round {number + 1} of {plan.rounds}: ceiling, {kind}", flush=True)
            ceilings[kind].append(_ceiling(contest, photos / kind, plan.seconds))
        for name in plan.of_round(number):
            print(f"round {number + 1} of {plan.rounds}: {name}", flush=True)
            with running(SERVERS[name], contest, photo, run_dir / name) as (pid, targets):
                for kind in plan.kinds:
                    for clients in plan.clients:
                        for target in targets:
                            cells.setdefault((target.name, kind, clients), []).append(
                                _cell(pid, target, photos / kind, clients, plan.seconds)
                            )
    ceiling = {kind: _ceiling_figures(rounds) for kind, rounds in ceilings.items()}
    contestants: dict[str, Any] = {}
    names = [target for server in SERVERS.values() for target in server.targets]
    in_order = sorted(cells.items(), key=lambda it: names.index(it[0][0]))
    for (name, kind, clients), rounds in in_order:
        contestant = contestants.setdefault(name, {"peak_memory_bytes": 0, "measured": {}})
        memory = max(it["memory_bytes"] for it in rounds)
        contestant["peak_memory_bytes"] = max(contestant["peak_memory_bytes"], memory)
        contestant["measured"].setdefault(kind, {})[str(clients)] = _figures(rounds, ceiling[kind])
    shares = [it["others_share"] for rounds in cells.values() for it in rounds]
    shares += [
        way["others_share"]
        for rounds in ceilings.values()
        for it in rounds
        for way in it["ways"].values()
    ]
    others = {"mean": statistics.mean(shares), "most": max(shares)}
    return {"ceiling": ceiling, "contestants": contestants, "others_share": others}


def _ceiling(contest: Contest, photos: Path, seconds: float) -> dict[str, Any]:
    job = {
        "archive": str(contest.directory),
        "photos": str(photos),
        "seconds": seconds,
        "batch": CEILING_BATCH,
    }
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.serving.ceiling"],
        input=json.dumps(job), capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise BenchmarkError(f"the ceiling could not be measured:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _cell(pid: int, target: Target, photos: Path, clients: int, seconds: float) -> dict[str, Any]:
    load = Load(
        target.url, str(photos), clients, seconds, _WARMUP * seconds,
        target.headers, target.form_field,
    )  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.serving.load"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as generator:  # fmt: skip
        assert generator.stdin  # noqa: S101  (for mypy)
        assert generator.stdout  # noqa: S101
        generator.stdin.write(json.dumps(asdict(load)))
        generator.stdin.close()
        used, busy = [], []
        for word in ("warm", "done"):
            if generator.stdout.readline().strip() != word:
                raise BenchmarkError("the load generator failed: its words are above")
            processes = family(pid, target.not_counted)
            used.append(cpu_seconds(processes))
            busy.append(busy_seconds())
        memory = memory_bytes(processes)
        result: dict[str, Any] = json.load(generator.stdout)
    server = used[1] - used[0]
    others = max(0.0, busy[1] - busy[0] - server - result["cpu_seconds"])
    return result | {
        "server_cpu_seconds": server,
        "others_share": others / (result["seconds"] * cores()),
        "memory_bytes": memory,
    }


def _ceiling_figures(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The fastest way's figures, and all ways' beside them."""
    ways = {
        way: {
            figure: statistics.median(it["ways"][way][figure] for it in rounds)
            for figure in ("photos_per_second", "cpu_seconds_per_photo")
        }
        for way in rounds[0]["ways"]
    }
    fastest = max(ways, key=lambda way: ways[way]["photos_per_second"])
    return {
        **ways[fastest],
        "latency_ms": statistics.median([it for one in rounds for it in one["latencies_ms"]]),
        "way": fastest,
        "ways": ways,
        "peak_memory_bytes": max(it["memory_bytes"] for it in rounds),
        "rounds": [it["ways"] for it in rounds],
    }


def _figures(rounds: Sequence[dict[str, Any]], ceiling: dict[str, Any]) -> dict[str, Any]:
    """Medians over the rounds; percentiles of all their latencies."""
    latencies = [it for one in rounds for it in one["latencies_ms"]]
    answered = len(latencies)
    failed: dict[str, int] = {}
    for one in rounds:
        for reason, count in one["failed"].items():
            failed[reason] = failed.get(reason, 0) + count
    speeds = [len(one["latencies_ms"]) / one["seconds"] for one in rounds]
    figures: dict[str, Any] = {"answered": answered, "failed": failed, "rounds": speeds}
    figures["photos_per_second"] = statistics.median(speeds)
    figures["of_ceiling"] = figures["photos_per_second"] / ceiling["photos_per_second"]
    if not answered:
        return figures
    p50, p95, p99 = np.percentile(latencies, [50, 95, 99]).tolist()
    cpu = sum(one["server_cpu_seconds"] for one in rounds) / answered
    return figures | {
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "cpu_seconds_per_photo": cpu,
        "cpu_of_ceiling": cpu / ceiling["cpu_seconds_per_photo"],
        "load_generator_cpu_seconds_per_photo": sum(one["cpu_seconds"] for one in rounds)
        / answered,
    }
