"""Flask and eager torch: `python -m benchmarks.serving.peers.flask_server PORT`.

Behind waitress, a production server, on one thread per core and two that read bodies meanwhile.
Photos are decoded in these threads; one more runs the network, photo by photo, on all cores.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import waitress
from flask import Flask, Response, jsonify, request

from benchmarks.serving.machine import cores
from benchmarks.serving.peers.network import EagerNetwork

app = Flask(__name__)
network = EagerNetwork()
network_thread = ThreadPoolExecutor(1)


@app.post("/predict")  # type: ignore[untyped-decorator]
def predict() -> Response:
    """Answer one photo."""
    pixels = network.decode(request.get_data(cache=False))
    (answer,) = network_thread.submit(network.identify, [pixels]).result()
    return jsonify(answer)


if __name__ == "__main__":
    waitress.serve(app, host="127.0.0.1", port=int(sys.argv[1]), threads=cores() + 2)
