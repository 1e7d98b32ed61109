"""How much machine, and how much money, a number of photos takes: `python -m benchmarks.sizing`.

Measures the service on this machine with `benchmarks.serving`, the bundled archive and a
ResNet-152, and works out from photos a second per core what a million photos cost on machines of
Google's. Writes `sizing.json` and `sizing.md`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["MACHINES", "Machine", "Measured", "cost_of_a_million"]

_ROOT = Path(__file__).resolve().parents[1]
_CLIENTS = 16
_SERVICE = "through the gateway"
# Its weights are random, as those of `make bench`: as fast as any.
_FLAGSHIP = ("resnet152", 224, "random weights")
_KINDS = {"small": "640 px", "12MP": "12 megapixels"}


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine type of Compute Engine.

    Attributes:
        name: its type.
        vcpus: threads that it has; the cores of the measurement are such threads too.
        memory_gb: its memory.
        dollars_an_hour: list price in us-central1, on demand, in US dollars.
    """

    name: str
    vcpus: int
    memory_gb: int
    dollars_an_hour: float


# List prices, without discounts, typed in and looked up by no command: put in what your own bill
# says. They are a factor of the result, nothing else.
MACHINES = (
    Machine("e2-standard-2", 2, 8, 0.0670),
    Machine("n2d-standard-2", 2, 8, 0.0845),
    Machine("n2-standard-2", 2, 8, 0.0971),
    Machine("c2-standard-4", 4, 16, 0.2088),
    Machine("c3-standard-4", 4, 16, 0.2016),
)


@dataclass(frozen=True, slots=True)
class Measured:
    """One model on this machine.

    Attributes:
        model: what was served.
        cores: of this machine; the load generator ran on them too.
        photos_per_second: by size of photo, with 16 clients through the gateway.
        p95_ms: by size of photo, likewise.
        memory_mb: of all processes at their highest, under the biggest photos.
        others_share: of the cores that other processes took meanwhile, 0 to 1.
    """

    model: str
    cores: int
    photos_per_second: dict[str, float]
    p95_ms: dict[str, float]
    memory_mb: float
    others_share: float


def cost_of_a_million(machine: Machine, photos_per_second_per_core: float) -> float:
    """US dollars for a million photos on a machine that does nothing else and is never idle."""
    hours = 1e6 / (photos_per_second_per_core * machine.vcpus) / 3600
    return hours * machine.dollars_an_hour


def _bundled() -> tuple[str, int, str]:
    """Network, side of its input in pixels, and how it is called."""
    with zipfile.ZipFile(_ROOT / "model_store" / "car_identifier.mar") as archive:
        manifest = json.loads(archive.read("model.json"))
    return manifest["network"], manifest["preprocessing"]["size"], "bundled"


def measure(model: str, photos: Path, seconds: float, network: str, size: int) -> Measured:
    """Serve a network, the bundled archive if that holds it, and have 16 clients ask."""
    with tempfile.TemporaryDirectory() as out:
        subprocess.run(  # noqa: S603
            [sys.executable, "-m", "benchmarks.serving", "--photos", str(photos), "--out", out,
             "--only", "this worker", "--clients", str(_CLIENTS), "--seconds", str(seconds),
             "--rounds", "1", "--network", network, "--size", str(size)],
            cwd=_ROOT, check=True,
        )  # fmt: skip
        found = json.loads((Path(out) / "serving.json").read_text())
    service = found["contestants"][_SERVICE]
    figures = {kind: service["measured"][kind][str(_CLIENTS)] for kind in _KINDS}
    if any(it["failed"] for it in figures.values()):
        raise SystemExit(f"requests failed, so there is nothing to work out: {figures}")
    return Measured(
        model,
        found["machine"]["cores"],
        {kind: it["photos_per_second"] for kind, it in figures.items()},
        {kind: it["p95_ms"] for kind, it in figures.items()},
        service["peak_memory_bytes"] / 2**20,
        found["others_share"]["mean"],
    )


def markdown(measured: list[Measured], cpu: str) -> str:
    """The page."""
    lines = [
        "# Sizing",
        "",
        "Written by `python -m benchmarks.sizing`.",
        "",
        f"Measured on {measured[0].cores} cores ({cpu}) with {_CLIENTS} clients that share them, "
        "through the gateway; other processes took "
        f"{max(it.others_share for it in measured):.0%} of the cores:",
        "",
        "| model | photo | photos/s | photos/s per core | p95 ms | memory MB, at the highest |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {it.model} | {size} | {it.photos_per_second[kind]:.0f} "
        f"| **{it.photos_per_second[kind] / it.cores:.0f}** | {it.p95_ms[kind]:.0f} "
        f"| {it.memory_mb:.0f} |"
        for it in measured
        for kind, size in _KINDS.items()
    ]
    lines += [
        "",
        "What a million photos cost in US dollars, at the list price and with a machine that is "
        "never idle:",
        "",
        "dollars = 1,000,000 / (photos/s per core × vCPUs) / 3600 s × dollars an hour",
        "",
        "| machine | vCPUs | $/hour | "
        + " | ".join(f"{it.model}, {size}" for it in measured for size in _KINDS.values())
        + " |",
        "|---|---|---|" + "---|" * (len(measured) * len(_KINDS)),
    ]
    lines += [
        f"| {machine.name} | {machine.vcpus} | {machine.dollars_an_hour:.4f} | "
        + " | ".join(
            f"{cost_of_a_million(machine, it.photos_per_second[kind] / it.cores):.2f}"
            for it in measured
            for kind in _KINDS
        )
        + " |"
        for machine in MACHINES
    ]
    lines += [
        "",
        "That takes a vCPU there to be as fast as a core here, and twice as many to be twice as "
        "fast; neither was tried. N2D has, and E2 may land on, processors without 8-bit "
        "instructions (VNNI), which are slower. Prices: us-central1, on demand, typed in and not "
        "looked up; put your own into `MACHINES`.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure both models and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sizing", description=__doc__)
    parser.add_argument(
        "--photos",
        type=Path,
        help="folder of JPEG photos; without it nothing is "
        "measured, and the page is written anew from the figures there are",
    )
    parser.add_argument("--seconds", type=float, default=8, help="of each measurement (8)")
    parser.add_argument("--out", type=Path, default=_ROOT / "benchmarks" / "results")
    arguments = parser.parse_args()

    figures = arguments.out / "sizing.json"
    if arguments.photos:
        content = _measured_now(arguments.photos, arguments.seconds)
        figures.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    content = json.loads(figures.read_text("utf-8"))
    page = markdown([Measured(**it) for it in content["measured"]], content["cpu"])
    (arguments.out / "sizing.md").write_text(page, "utf-8")
    print(page)


def _measured_now(photos: Path, seconds: float) -> dict[str, Any]:
    from benchmarks.serving.machine import cpu_model

    measured = [
        measure(f"{network}, {what}", photos, seconds, network, size)
        for network, size, what in dict.fromkeys((_bundled(), _FLAGSHIP))
    ]
    return {"cpu": cpu_model(), "measured": [asdict(it) for it in measured]}


if __name__ == "__main__":
    main()
