"""Users beside the one that runs the tests, who has to be root for it."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

# Numbers that need no entry in the table of users, as in a container.
GATEWAY, OTHER = 10001, 10002

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be other users")


@pytest.fixture
def folder() -> Iterator[Path]:
    """The gateway's own, where other users may look; pytest's are for one user only."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    os.chown(path, GATEWAY, GATEWAY)
    yield path
    shutil.rmtree(path)


def as_user(user: int, call: Callable[[], object]) -> object:
    """What the call returns, or its error's text, in a process of that user."""
    context = multiprocessing.get_context("fork")  # the interpreter may be in root's own home
    here, there = context.Pipe(duplex=False)

    def work(result: Connection) -> None:
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
        try:
            result.send(call())
        except Exception as error:
            result.send(str(error))

    process = context.Process(target=work, args=(there,))
    process.start()
    assert here.poll(30), "no answer"
    answer = here.recv()
    process.join()
    return answer


def owner_and_mode(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)
