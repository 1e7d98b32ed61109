"""Empty a run directory but for what can't be made again: `python -m deploy.clean .run`."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import sys
from pathlib import Path

from deploy.errors import ServeError

_PRECIOUS = ("api_keys.json", "versions.json", "served.json")


def clean(run_dir: Path) -> list[Path]:
    """Remove logs, tokens and reports; API keys and what swaps remember stay.

    Returns:
        The files that stay. Without any, the directory is gone too.

    Raises:
        ServeError: a service runs from there, or a command changes its versions.
    """
    if not run_dir.is_dir():
        return []
    with contextlib.ExitStack() as held:
        for path in run_dir.glob("*.lock"):
            lock = held.enter_context(path.open("r"))
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ServeError(
                    f"a service or a command is at work in {run_dir} ({path.name}): stop it first"
                ) from error
        kept = [path for name in _PRECIOUS if (path := run_dir / name).exists()]
        for path in run_dir.iterdir():
            if path not in kept:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
        if not kept:
            run_dir.rmdir()
        return kept


def main(run_dir: Path) -> int:
    """Do it and tell what was kept; returns the exit code."""
    try:
        kept = clean(run_dir)
    except (ServeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if kept:
        names = ", ".join(path.name for path in kept)
        print(f"kept in {run_dir}: {names} (`rm -r {run_dir}` deletes API keys and swaps for good)")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
