"""The results as a table, a plot and raw figures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from benchmarks.serving.servers import EAGER_SERVERS, GATEWAY, LITSERVE_INT8, WORKER

__all__ = ["failures", "markdown", "write_results"]


def failures(results: dict[str, Any]) -> list[str]:
    """One line per measurement in which something was not answered with a 200."""
    return [
        f"{name}, {kind}, {clients} clients: {reasons} failed, {cell['answered']} answered"
        for name, kind, clients, cell in _cells(results)
        if cell["failed"] or not cell["answered"]
        for reasons in [", ".join(f"{n} × {why}" for why, n in cell["failed"].items()) or "all"]
    ]


def write_results(results: dict[str, Any], out: Path) -> None:
    """Write serving.json, serving.md and serving.svg into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "serving.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (out / "serving.md").write_text(markdown(results), encoding="utf-8")
    _plot(results, out / "serving.svg")


def markdown(results: dict[str, Any]) -> str:
    """The whole report."""
    return "\n".join([*_about(results), *_claims(results), *_tables(results), ""])


def _about(results: dict[str, Any]) -> Iterator[str]:
    machine, model, plan = results["machine"], results["model"], results["plan"]
    weights = (
        "random weights, which are as fast as any" if model["stand_in"] else "as in the archive"
    )
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    yield "# Serving speed\n\nWritten by `make bench`.\n"
    yield (
        f"{machine['cpu']}, {machine['cores']} cores. {model['network']} at {model['size']} px, "
        f"{model['classes']} classes ({weights}). {versions}.\n"
    )
    for kind, photos in results["photos"].items():
        yield (
            f"- **{kind}** photos: {photos['what']}, {photos['files']} files of "
            f"{photos['mean_bytes'] / 1e6:.2f} MB on average ({photos['source']})."
        )
    others = results["others_share"]
    yield (
        f"\nEach figure is the median of {plan['rounds']} rounds of {plan['seconds']:g} s or a bit "
        "more (eager torch: one round), the contestants in turn; percentiles are of all rounds. "
        "Clients wait for an answer before they send the next photo. The ceiling is the handler's "
        "own decoding and engine in a loop without a server, in batches of "
        f"{results['ceiling_batch']}, the fastest of four ways to do it; it has the cores to "
        "itself, while servers share them with the load generator. CPU and memory (proportional "
        "set size under load) are those of all the server's processes, of the worker those of Java "
        "and Python without the gateway. All peers decode with the handler's code: only engine and "
        "server differ. Other processes of the machine took "
        f"{100 * others['mean']:.0f} % of the cores on average, {100 * others['most']:.0f} % at "
        "most."
    )
    yield "\n![throughput and latency](serving.svg)\n"


def _claims(results: dict[str, Any]) -> Iterator[str]:
    yield "## What was to be reached\n"
    yield "| photos | claim | worker ÷ other | reached |\n|---|---|---|---|"
    for it in results["acceptance"]:
        reached = "yes" if it["met"] else "**no**"
        yield f"| {it['photos']} | {it['claim']} | {it['ratio']:.2f} | {reached} |"
    yield ""


def _tables(results: dict[str, Any]) -> Iterator[str]:
    for kind, ceiling in results["ceiling"].items():
        yield f"## {kind} photos\n"
        yield (
            f"Ceiling: **{ceiling['photos_per_second']:.1f} photos/s**, "
            f"{1000 * ceiling['cpu_seconds_per_photo']:.1f} CPU-ms a photo ({ceiling['way']}), "
            f"{ceiling['peak_memory_bytes'] / 1e6:.0f} MB; one photo alone "
            f"**{ceiling['latency_ms']:.1f} ms**. The ways it was tried:\n"
        )
        yield "| way | photos/s | CPU-ms a photo |\n|---|---|---|"
        for way, figures in ceiling["ways"].items():
            cpu = 1000 * figures["cpu_seconds_per_photo"]
            yield f"| {way} | {figures['photos_per_second']:.1f} | {cpu:.1f} |"
        yield (
            "\n| contestant | clients | photos/s | of the ceiling | p50 ms | p95 ms | p99 ms | "
            "CPU-ms a photo | of the ceiling's | load generator's own | failed |\n"
            "|---|---|---|---|---|---|---|---|---|---|---|"
        )
        for name, of_kind, clients, cell in _cells(results):
            if of_kind == kind:
                yield _row(name, clients, cell)
        yield ""
    yield "## Peak memory\n\n| contestant | MB |\n|---|---|"
    for name, contestant in results["contestants"].items():
        yield f"| {name} | {contestant['peak_memory_bytes'] / 1e6:.0f} |"


def _row(name: str, clients: str, cell: dict[str, Any]) -> str:
    failed = sum(cell["failed"].values())
    if not cell["answered"]:
        return f"| {name} | {clients} | **none** | | | | | | | | **{failed}** |"
    columns = [
        name, clients,
        f"{cell['photos_per_second']:.1f}", f"{cell['of_ceiling']:.2f}",
        *(f"{cell[it]:.0f}" for it in ("p50_ms", "p95_ms", "p99_ms")),
        f"{1000 * cell['cpu_seconds_per_photo']:.1f}", f"{cell['cpu_of_ceiling']:.2f}",
        f"{1000 * cell['load_generator_cpu_seconds_per_photo']:.1f}",
        f"**{failed}**" if failed else "0",
    ]  # fmt: skip
    return "| " + " | ".join(columns) + " |"


def _cells(results: dict[str, Any]) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    for name, contestant in results["contestants"].items():
        for kind, by_clients in contestant["measured"].items():
            for clients, cell in by_clients.items():
                yield name, kind, clients, cell


def _plot(results: dict[str, Any], path: Path) -> None:
    """Throughput and p95 over the number of clients, a column per kind of photo."""
    kinds = list(results["ceiling"])
    # Of tab20's pairs of a dark and a light tone, one for each framework.
    tones: Any = plt.get_cmap("tab20")
    colours = {WORKER: tones(0), GATEWAY: tones(1), LITSERVE_INT8: tones(2)}
    colours |= {name: tones(4 + index) for index, name in enumerate(EAGER_SERVERS)}
    # Text stays text, and nothing in the file changes but the figures.
    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "serving",
        "font.family": "sans-serif",
    }
    with plt.rc_context(style):
        size = (max(7.0, 5.5 * len(kinds)), 9.0)
        figure, axes = plt.subplots(2, len(kinds), figsize=size, squeeze=False)
        for column, kind in enumerate(kinds):
            speed, latency = axes[0][column], axes[1][column]
            ceiling = results["ceiling"][kind]
            speed.axhline(ceiling["photos_per_second"], color="black", ls=":", label="ceiling")
            latency.axhline(ceiling["latency_ms"], color="black", ls=":")
            for name in results["contestants"]:
                drawn = {"color": colours[name], "marker": "o", "ms": 4, "label": name}
                for axis, key in ((speed, "photos_per_second"), (latency, "p95_ms")):
                    axis.plot(*_series(results, name, kind, key), **drawn)
            for axis in (speed, latency):
                axis.set_xscale("log", base=2)
                clients = sorted({int(it[2]) for it in _cells(results)})
                axis.set_xticks(clients, [str(it) for it in clients])
                axis.set_xlabel("clients")
            latency.set_yscale("log")
            speed.set_ylim(bottom=0)
            speed.set_title(f"{kind} photos")
            speed.set_ylabel("photos a second")
            latency.set_ylabel("p95 latency, ms")
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="lower center", ncols=2, frameon=False)
        figure.tight_layout(rect=(0, 0.2, 1, 1))
        figure.savefig(path, format="svg", metadata={"Date": None})
        plt.close(figure)


def _series(
    results: dict[str, Any], name: str, kind: str, key: str
) -> tuple[Iterable[int], Iterable[float]]:
    measured = results["contestants"][name]["measured"][kind]
    points = sorted((int(clients), cell[key]) for clients, cell in measured.items() if key in cell)
    return [x for x, _ in points], [y for _, y in points]
