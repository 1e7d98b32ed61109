"""`python -m deploy.healthcheck`: is the service healthy? One line, and exit status 0 or 1.

Asks the gateway's /readyz, or with `--torchserve` TorchServe itself whether the default version
has a worker that is ready. Addresses come from the settings that `deploy.serve` reads.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from deploy.options import Options
from deploy.readiness import ask_torchserve
from deploy.torchserve import NoAnswerError, open_url


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask, print a line, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deploy.healthcheck", description=__doc__)
    parser.add_argument("--torchserve", action="store_true", help="ask TorchServe, not the gateway")
    asked = parser.parse_args(arguments)
    options = Options.parse([], os.environ)
    try:
        if asked.torchserve:
            ask_torchserve(options)
        else:
            open_url(f"{options.url}/readyz")
    except NoAnswerError as error:
        print(f"unhealthy: {error}")
        return 1
    print("healthy")
    return 0


if __name__ == "__main__":
    sys.exit(main())
