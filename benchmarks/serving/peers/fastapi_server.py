"""FastAPI and eager torch: `python -m benchmarks.serving.peers.fastapi_server PORT`.

Under uvicorn with one process. As many photos as there are cores are decoded at once, in threads;
one more thread runs the network, photo by photo, on all cores.
"""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import uvicorn
from fastapi import FastAPI, Request

from benchmarks.serving.machine import cores
from benchmarks.serving.peers.network import EagerNetwork

app = FastAPI()
network = EagerNetwork()
decoding_threads = ThreadPoolExecutor(cores())
network_thread = ThreadPoolExecutor(1)


@app.post("/predict")
async def predict(request: Request) -> dict[str, Any]:
    """Answer one photo."""
    photo = await request.body()
    loop = asyncio.get_running_loop()
    pixels = await loop.run_in_executor(decoding_threads, network.decode, photo)
    (answer,) = await loop.run_in_executor(network_thread, network.identify, [pixels])
    return answer


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=False)
