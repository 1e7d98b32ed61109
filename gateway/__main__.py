"""`python -m gateway` runs the gateway; settings.py says what can be set."""

from __future__ import annotations

import logging
import sys

from gateway.app import create_app
from gateway.first_key import make_first_key
from gateway.keys import KeyStoreError
from gateway.server import serve
from gateway.settings import read_settings


def main() -> None:
    """Serve until told to stop."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    # One line per photo to TorchServe; the gateway has its own line per request.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    settings = read_settings()
    try:
        first_key = make_first_key(settings)
    except KeyStoreError as error:
        sys.exit(str(error))
    if first_key:
        print(f"The first API key, shown this once: {first_key}", flush=True)
    serve(create_app(settings), settings)


if __name__ == "__main__":
    main()
