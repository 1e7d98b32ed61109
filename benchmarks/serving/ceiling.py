"""How fast the handler's own decoding and engine are without any server: the ceiling.

    echo '{"archive": "…/unpacked", "photos": "…/small", "seconds": 5, "batch": 8}' |
        python -m benchmarks.serving.ceiling

A process of its own, as the servers are, so that its memory and CPU time are its own.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from benchmarks.serving.machine import busy_seconds, cores
from handler.decode import decode_photo
from handler.engine import Engine, load_engine
from handler.manifest import ModelManifest

__all__ = ["measure"]

# Share of the measured time that each way runs before, to warm up.
_WARMUP = 0.2

Pixels = NDArray[np.uint8]


def measure(archive: Path, photos: Path, seconds: float, batch: int) -> dict[str, Any]:
    """Time one photo at a time, and each way of doing batches.

    Args:
        archive: an unpacked archive.
        photos: folder of JPEG files.
        seconds: how long each way is timed.
        batch: photos per run of the engine.

    Returns:
        `latencies_ms` of single photos; `ways`, each with photos a second, CPU-seconds a photo and
        the share of the cores that other processes took meanwhile; and `memory_bytes` (PSS).
    """
    loop = _Loop(archive, [path.read_bytes() for path in sorted(photos.glob("*.jpg"))], batch)
    ways = {
        "photos decoded one by one": loop.one_by_one,
        "photos decoded side by side": loop.side_by_side,
        "photos decoded while the engine runs": loop.meanwhile,
        "each core decodes and runs batches of its own": loop.a_core_each,
    }
    return {
        "latencies_ms": loop.latencies_ms(seconds),
        "ways": {name: _timed(way(), seconds) for name, way in ways.items()},
        "memory_bytes": psutil.Process().memory_full_info().pss,
    }


class _Loop:
    """Decodes photos and runs the network on them, in all ways that one could think of.

    Each way is an endless iterator over the sizes of the batches that it has done.
    """

    def __init__(self, archive: Path, photos: Sequence[bytes], batch: int) -> None:
        manifest = ModelManifest.read(archive / "model.json")
        self.preprocessing = manifest.preprocessing
        self.engine = load_engine(manifest.engine, archive)
        self.core_engines = [load_engine(manifest.engine, archive, 1) for _ in range(cores())]
        self.files = itertools.cycle(photos)
        self.batch = batch
        self.pool = ThreadPoolExecutor(cores())

    def latencies_ms(self, seconds: float) -> list[float]:
        """Milliseconds from a file to its logits, photo by photo."""
        latencies: list[float] = []
        start = time.perf_counter()
        while (began := time.perf_counter()) < start + (1 + _WARMUP) * seconds or not latencies:
            self.engine.run(self.decode(next(self.files))[None])
            if began > start + _WARMUP * seconds:
                latencies.append(1000 * (time.perf_counter() - began))
        return latencies

    def one_by_one(self) -> Iterator[int]:
        while True:
            self.whole_batch(self.engine, self.next_files())
            yield self.batch

    def side_by_side(self) -> Iterator[int]:
        while True:
            self.engine.run(np.stack(list(self.pool.map(self.decode, self.next_files()))))
            yield self.batch

    def meanwhile(self) -> Iterator[int]:
        following = self.begin_decoding()
        while True:
            current, following = following, self.begin_decoding()
            self.engine.run(np.stack([photo.result() for photo in current]))
            yield self.batch

    def a_core_each(self) -> Iterator[int]:
        running: dict[Future[None], Engine] = {}
        idle = list(self.core_engines)
        while True:
            for engine in idle:
                future = self.pool.submit(self.whole_batch, engine, self.next_files())
                running[future] = engine
            done = wait(running, return_when=FIRST_COMPLETED).done
            idle = [running.pop(future) for future in done]
            yield self.batch * len(done)

    def whole_batch(self, engine: Engine, files: Sequence[bytes]) -> None:
        engine.run(np.stack([self.decode(file) for file in files]))

    def begin_decoding(self) -> list[Future[Pixels]]:
        return [self.pool.submit(self.decode, file) for file in self.next_files()]

    def next_files(self) -> list[bytes]:
        return list(itertools.islice(self.files, self.batch))

    def decode(self, file: bytes) -> Pixels:
        return self.preprocessing(decode_photo(file, min_side=self.preprocessing.size).image)


def _timed(way: Iterator[int], seconds: float) -> dict[str, float]:
    warm = time.perf_counter() + _WARMUP * seconds
    for _ in way:
        if time.perf_counter() >= warm:
            break
    start, cpu, busy, photos = time.perf_counter(), time.process_time(), busy_seconds(), 0
    for done in way:
        photos += done
        if time.perf_counter() >= start + seconds:
            break
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {
        "photos_per_second": photos / seconds,
        "cpu_seconds_per_photo": cpu / photos,
        "others_share": max(0.0, busy_seconds() - busy - cpu) / (seconds * cores()),
    }


if __name__ == "__main__":
    job = json.load(sys.stdin)
    result = measure(Path(job["archive"]), Path(job["photos"]), job["seconds"], job["batch"])
    json.dump(result, sys.stdout)
