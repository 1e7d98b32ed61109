"""The first API key, for an operator who has none yet."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from deploy.errors import ServeError
from deploy.options import ROOT, Options


def prepare_api_keys(options: Options, gateway_environment: Mapping[str, str]) -> bool:
    """Have the gateway make its first key where it needs one and has none, and show it.

    Here and not at the gateway's start, since what the gateway prints is kept in its log.

    Returns:
        Whether callers need a key.

    Raises:
        ServeError: the gateway can't write its keys, or its settings are wrong.
    """
    made = subprocess.run(
        [sys.executable, "-m", "gateway.first_key"],
        cwd=ROOT,
        env={**os.environ, **gateway_environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        start_new_session=True,  # Ctrl-C is the launcher's to answer
    )
    if made.returncode:
        raise ServeError(made.stderr.strip())
    answer = json.loads(made.stdout)
    if answer["first_key"]:
        print(
            f"""\
{options.host} can be reached from other machines, so callers need an API key. This is the first,
named "first", shown this once:

  {answer["first_key"]}

More of them: {_command_for_more(options)}
""",
            flush=True,
        )
    return bool(answer["key_needed"])


def _command_for_more(options: Options) -> str:
    command = [str(Path(sys.executable).with_name("carid")), "keys", "create", "NAME"]
    return shlex.join([*command, "--file", str(options.api_keys_file)])
