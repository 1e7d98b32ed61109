"""A worker that is killed under load: what its callers see of it, and for how long."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests
from factories import RED, photo
from live_stack import LiveStack, descendants, running_stack, still_running, wait_until_ready

pytestmark = pytest.mark.live

PHOTO = photo(RED, (640, 480))
CALLERS = 12
BATCH_SIZE = 8  # model-config.yaml's
# Seconds: model-config.yaml's startupTimeout, and the pause before TorchServe starts a worker anew.
COMES_BACK_WITHIN = 120 + 10


@dataclass
class Load:
    """What callers were told who sent photo after photo.

    Attributes:
        replies: of each request, when it ended (`time.monotonic()`), and the response.
        stopped: tells the callers to stop.
    """

    url: str
    replies: list[tuple[float, requests.Response]] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def call(self, caller: int) -> None:
        """Send one photo after the other until told to stop."""
        for number in itertools.count():
            headers = {"Content-Type": "image/jpeg", "X-Request-Id": f"caller-{caller}-{number}"}
            response = requests.post(self.url, data=PHOTO, headers=headers, timeout=200)
            self.replies.append((time.monotonic(), response))
            if self.stopped.is_set():
                return

    def answered_since(self, moment: float) -> int:
        """How many photos were answered after that moment."""
        return sum(end > moment and reply.status_code == 200 for end, reply in self.replies)


@contextmanager
def load(url: str) -> Iterator[Load]:
    """Callers at work inside the `with` block; on leaving, each has got its last reply."""
    running = Load(url)
    threads = [threading.Thread(target=running.call, args=(one,)) for one in range(CALLERS)]
    for thread in threads:
        thread.start()
    try:
        yield running
    finally:
        running.stopped.set()
        for thread in threads:
            thread.join()


def worker_of(stack: LiveStack) -> int:
    """The process id of the one worker."""
    [worker] = [
        pid for pid in descendants(stack.process.pid) if "model_service_worker" in command_line(pid)
    ]
    return worker


def command_line(pid: int) -> str:
    listing = ["ps", "-ww", "-o", "args=", "-p", str(pid)]
    return subprocess.run(listing, capture_output=True, text=True).stdout


def wait_for(load: Load, answers: int, since: float) -> None:
    """Wait until that many photos were answered after that moment."""
    deadline = time.monotonic() + COMES_BACK_WITHIN
    while load.answered_since(since) < answers:
        assert time.monotonic() < deadline, "the worker did not come back"
        time.sleep(0.1)


def test_a_killed_worker_costs_its_batch_and_comes_back_by_itself(tmp_path: Path) -> None:
    with running_stack(tmp_path) as stack:
        wait_until_ready(stack)
        url = f"{stack.url}/v1/identify"
        with load(url) as under_way:
            wait_for(under_way, 5 * CALLERS, since=0)
            workers = []
            for _ in range(3):
                workers.append(worker_of(stack))
                os.kill(workers[-1], signal.SIGKILL)
                killed = time.monotonic()
                wait_for(under_way, 5 * CALLERS, since=killed)
        assert len(set(workers)) == 3, "each time there was a new one"
        assert not still_running(set(workers))

        failures = [reply for _, reply in under_way.replies if reply.status_code != 200]
        # Whoever was not in the batch when it died waited and was answered.
        assert len(failures) <= 3 * BATCH_SIZE
        for reply in failures:
            told = reply.json()
            assert (reply.status_code, told["error"]["code"]) == (503, "model_unavailable")
            assert "Try again" in told["error"]["message"]
            assert told["request_id"] == reply.headers["X-Request-Id"]
            assert int(reply.headers["Retry-After"]) > 0

        afterwards = [requests.post(url, data=PHOTO, timeout=60) for _ in range(20)]
        assert {reply.status_code for reply in afterwards} == {200}
        assert requests.get(f"{stack.url}/readyz", timeout=30).status_code == 200
