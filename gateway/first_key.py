"""`python -m gateway.first_key` makes the first API key, where one is needed and never was made.

`deploy/serve.py` runs it before the gateway, so that the key is shown on the operator's terminal
and is not written to the gateway's log. It prints one line of JSON:

    {"key_needed": true, "first_key": "carid_…"}

`first_key` is null where there was a key before.
"""

from __future__ import annotations

import json
import sys

from gateway.access import AccessMode, access_mode
from gateway.keys import KeyStore, KeyStoreError
from gateway.settings import Settings, read_settings

__all__ = ["make_first_key"]

_NAME = "first"


def make_first_key(settings: Settings) -> str | None:
    """Make a key named "first" if keys are needed and there never was one; None otherwise.

    Raises:
        KeyStoreError: the key file can't be written.
    """
    if access_mode(settings) is not AccessMode.KEY:
        return None
    return KeyStore(settings.api_keys_file).create_first(_NAME)


def main() -> None:
    """Make it, and say what is needed."""
    settings = read_settings()
    try:
        first_key = make_first_key(settings)
    except KeyStoreError as error:
        sys.exit(str(error))
    needed = access_mode(settings) is AccessMode.KEY
    print(json.dumps({"key_needed": needed, "first_key": first_key}))


if __name__ == "__main__":
    main()
