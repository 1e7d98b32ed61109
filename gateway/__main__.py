"""`python -m gateway` runs the gateway; settings.py says what can be set."""

from __future__ import annotations

import logging
import sys

import uvicorn

from gateway.app import create_app
from gateway.first_key import make_first_key
from gateway.keys import KeyStoreError
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
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=True,
        forwarded_allow_ips=settings.trusted_proxies,
        # Longer than any Retry-After: who comes back in time finds the connection still open.
        timeout_keep_alive=65,
        timeout_graceful_shutdown=10,
    )


if __name__ == "__main__":
    main()
