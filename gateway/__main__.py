"""`python -m gateway` runs the gateway; settings.py says what can be set."""

from __future__ import annotations

import logging
import sys

import uvicorn
from pydantic import ValidationError

from gateway.app import create_app
from gateway.settings import Settings


def main() -> None:
    """Serve until told to stop."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    # One line per photo to TorchServe; the gateway has its own line per request.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        settings = Settings()
    except ValidationError as error:
        for problem in error.errors():
            name = "CARID_" + "_".join(map(str, problem["loc"])).upper()
            print(f"{name}: {problem['msg']}, not {problem['input']!r}", file=sys.stderr)
        sys.exit(2)
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        # Longer than any Retry-After: who comes back in time finds the connection still open.
        timeout_keep_alive=65,
        timeout_graceful_shutdown=10,
    )


if __name__ == "__main__":
    main()
