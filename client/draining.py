"""Removing a version without losing a request."""

from __future__ import annotations

import time

from client.errors import VersionError
from client.management import TorchServe, Version

__all__ = ["drain_and_unregister"]

# A request that is on its way from TorchServe's routing into a queue takes microseconds; this is
# for a machine that stands still meanwhile.
_SETTLE_S = 0.5
# How long a worker that has died is given to come back.
_REVIVAL_S = 30.0
# How often a version that is still asked for by its name is given another try.
_ATTEMPTS = 5


def drain_and_unregister(torchserve: TorchServe, version: Version) -> None:
    """Answer all that a version was asked, and remove it. It must not be the default version.

    TorchServe drops what a version has not answered when it removes it, and can't be asked what
    that would be. So:

    1. What came while it was the default is in its queue by now. Something is sent through that
       queue: once it is answered, all before it has been taken out; and answered too, where there
       is only one worker. Several are waited for as long as an answer may take.
    2. The version is scaled to no workers. From then on whoever asks for it by its name is told
       503 at once, and a request that came in between shows up in the queue.
    3. If there is none, nothing is left to be lost, and the version is removed. If there is, the
       version gets its workers back, answers, and all begins anew.

    Raises:
        TorchServeError: TorchServe can't be reached or refuses.
        VersionError: it is asked for by its name without a pause; it keeps its workers.
    """
    workers = max(version.workers, 1)
    for _ in range(_ATTEMPTS):
        time.sleep(_SETTLE_S)
        current = torchserve.version(version.version)
        if current is None:
            return
        can_answer = _comes_alive(torchserve, current)
        if can_answer:
            torchserve.pass_through_queue(version.version)
            if current.workers > 1:
                time.sleep(current.response_timeout)
        torchserve.scale(version.version, 0)
        time.sleep(_SETTLE_S)
        stopped = torchserve.version(version.version)
        if stopped is None:
            return
        # Workers that were dead for good answer nobody, however long they are kept.
        if not stopped.waiting or (current.workers and not can_answer):
            torchserve.unregister(version.version)
            return
        torchserve.scale(version.version, workers)
    raise VersionError(
        f"version {version.version} is still being asked for by its name, and stays registered: "
        f"`carid models unregister {version.version}` removes it once that is over"
    )


def _comes_alive(torchserve: TorchServe, version: Version) -> bool:
    """Whether a worker is ready, or becomes so: TorchServe starts a dead one again."""
    deadline = time.monotonic() + _REVIVAL_S
    found: Version | None = version
    while found and found.workers and not found.ready and time.monotonic() < deadline:
        time.sleep(_SETTLE_S)
        found = torchserve.version(version.version)
    return bool(found and found.ready)
