"""LitServe with dynamic batching: `python -m benchmarks.serving.peers.litserve_server PORT ENGINE`.

ENGINE is `eager` (torch) or `int8` (the archive's own). One worker process with all cores, batches
of up to 8; photos of a batch are decoded side by side.
"""

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import litserve
from fastapi import Body

from benchmarks.serving.machine import cores
from benchmarks.serving.peers.network import EagerNetwork, Int8Network

# LitServe reads annotations as objects, so there is no `from __future__ import annotations` here.
Photo = Annotated[bytes, Body(media_type="application/octet-stream")]


class CarApi(litserve.LitAPI):  # type: ignore[misc]
    """From a photo's bytes to its likeliest classes."""

    def __init__(self, engine: str, **batching: Any) -> None:
        super().__init__(**batching)
        self._engine = engine

    def setup(self, device: str) -> None:
        """Load the network, in the worker process."""
        self._network = Int8Network() if self._engine == "int8" else EagerNetwork()
        self._threads = ThreadPoolExecutor(cores())

    def decode_request(self, request: Photo) -> bytes:
        """Nothing yet: what is done here is done photo by photo."""
        return request

    def batch(self, inputs: Sequence[bytes]) -> list[bytes]:
        """A batch is a list of files."""
        return list(inputs)

    def predict(self, x: list[bytes]) -> list[dict[str, Any]]:
        """Decode and classify a batch."""
        return self._network.identify(list(self._threads.map(self._network.decode, x)))

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """One answer per photo."""
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        """It is plain data already."""
        return output


if __name__ == "__main__":
    api = CarApi(
        sys.argv[2],
        max_batch_size=8,
        batch_timeout=0.002,  # seconds; what waits while a batch runs is taken at once
    )
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=120)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)
