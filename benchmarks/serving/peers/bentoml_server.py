"""BentoML with adaptive batching: `bentoml serve benchmarks.serving.peers.bentoml_server:Cars`.

One worker process with all cores, batches of up to 8; photos of a batch are decoded side by side.
A photo travels in a form, as files do in BentoML.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import bentoml

from benchmarks.serving.machine import cores
from benchmarks.serving.peers.network import EagerNetwork


@bentoml.service(workers=1, traffic={"timeout": 120}, logging={"access": {"enabled": False}})
class Cars:
    """From a photo's bytes to its likeliest classes."""

    def __init__(self) -> None:
        self._network = EagerNetwork()
        self._threads = ThreadPoolExecutor(cores())

    @bentoml.api(batchable=True, max_batch_size=8, max_latency_ms=60_000)  # type: ignore[untyped-decorator]
    def predict(
        self, photos: list[Annotated[Path, bentoml.validators.ContentType("image/jpeg")]]
    ) -> list[dict[str, Any]]:
        """Decode and classify a batch."""
        files = [photo.read_bytes() for photo in photos]
        return self._network.identify(list(self._threads.map(self._network.decode, files)))
