"""Starting each contestant as its users do, and stopping it whatever happens."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.service import BenchmarkError, Service, free_ports, serve_command
from benchmarks.serving.load import Load, post
from benchmarks.serving.stand_in import Contest
from deploy.process_group import ProcessGroup

__all__ = [
    "EAGER_SERVERS", "GATEWAY", "LITSERVE_INT8", "SERVERS", "WORKER", "Server", "Target",
    "running",
]  # fmt: skip

_ROOT = Path(__file__).resolve().parents[2]
_START_TIMEOUT = 180.0
_STOP_PATIENCE = 40.0
_PEERS = "benchmarks.serving.peers"


@dataclass(frozen=True, slots=True)
class Target:
    """Something that answers photos.

    Attributes:
        name: what results call it.
        url: where a photo is posted.
        headers: what has to come with it.
        form_field: set where the photo goes into a form.
        not_counted: argument of a process that has no part in it.
    """

    name: str
    url: str
    headers: dict[str, str] = field(default_factory=dict)
    form_field: str | None = None
    not_counted: str | None = None


@dataclass(frozen=True, slots=True)
class Server:
    """A command and the targets it offers.

    Attributes:
        targets: their names.
        command: what is run, with {port} for a free one; None for `deploy.serve`.
        channels_last: the memory format of eager torch.
        form_field: set where a photo goes into a form.
    """

    targets: tuple[str, ...]
    command: str | None
    channels_last: bool = False
    form_field: str | None = None


WORKER, GATEWAY, LITSERVE_INT8 = "this worker", "through the gateway", "LitServe, same int8 engine"

_EAGER = {
    "Flask": (f"-m {_PEERS}.flask_server {{port}}", None),
    "FastAPI": (f"-m {_PEERS}.fastapi_server {{port}}", None),
    "LitServe": (f"-m {_PEERS}.litserve_server {{port}} eager", None),
    "BentoML": (
        f"-m bentoml serve {_PEERS}.bentoml_server:Cars --host 127.0.0.1 --port {{port}}",
        "photos",
    ),
}
EAGER_SERVERS = {
    name: Server((name,), command, channels_last, form_field)
    for framework, (command, form_field) in _EAGER.items()
    for channels_last in (False, True)
    for name in [f"{framework}, eager torch{', channels_last' if channels_last else ''}"]
}
SERVERS = {
    WORKER: Server((WORKER, GATEWAY), None),
    LITSERVE_INT8: Server((LITSERVE_INT8,), f"-m {_PEERS}.litserve_server {{port}} int8"),
} | EAGER_SERVERS


@contextmanager
def running(
    server: Server, contest: Contest, photo: bytes, run_dir: Path
) -> Iterator[tuple[int, list[Target]]]:
    """Start a server and wait until it has answered a photo at each of its targets.

    Args:
        server: one of `SERVERS`.
        contest: what it serves.
        photo: a good JPEG file.
        run_dir: gets its log and whatever it writes.

    Yields:
        The id of its first process, and its targets.

    Raises:
        BenchmarkError: it ended, or did not answer in time.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    ports = free_ports(4)
    if server.command is None:
        arguments = serve_command(contest.archive, run_dir, ports)
    else:
        arguments = server.command.format(port=ports[0]).split()
    process = ProcessGroup(
        server.targets[0],
        [sys.executable, *arguments],
        cwd=_ROOT,
        log=run_dir / "output.log",
        env=_environment(server, contest, run_dir),
    )
    try:
        if server.command is None:
            gateway = Target(GATEWAY, f"http://127.0.0.1:{ports[0]}/v1/identify")
            _wait_for(gateway, photo, process)
            base, inference, management = (f"http://127.0.0.1:{port}" for port in ports[:3])
            service = Service(base, inference, management, run_dir / "key_file.json")
            headers = {"Authorization": service.key("inference")}
            worker = Target(WORKER, service.predictions, headers, not_counted="gateway")
            targets = [worker, gateway]
        else:
            url = f"http://127.0.0.1:{ports[0]}/predict"
            targets = [Target(server.targets[0], url, form_field=server.form_field)]
        for target in targets:
            _wait_for(target, photo, process)
        yield process.pid, targets
    finally:
        process.stop(_STOP_PATIENCE)


def _environment(server: Server, contest: Contest, run_dir: Path) -> dict[str, str]:
    return {
        "PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")]),
        "BENCH_ARCHIVE": str(contest.directory),
        "BENCH_WEIGHTS": str(contest.weights),
        "BENCH_CHANNELS_LAST": str(int(server.channels_last)),
        "BENTOML_HOME": str(run_dir),
        "BENTOML_DO_NOT_TRACK": "true",
    }


def _wait_for(target: Target, photo: bytes, process: ProcessGroup) -> None:
    load = Load(
        target.url, "", clients=1, seconds=0, warmup=0,
        headers=target.headers, form_field=target.form_field,
    )  # fmt: skip
    deadline = time.monotonic() + _START_TIMEOUT
    answer = "nothing"
    while time.monotonic() < deadline:
        if process.exit_code is not None:
            raise BenchmarkError(f"{target.name} ended at its start:\n{process.log_end()}")
        try:
            reply = post(load, photo)
        except (OSError, ValueError) as error:  # not listening yet
            answer = str(error)
        else:
            if reply.status == 200:
                return
            answer = f"{reply.status} {reply.body[:300]!r}"
        time.sleep(0.2)
    raise BenchmarkError(
        f"{target.name} did not answer a photo within {_START_TIMEOUT:.0f} s, its last answer: "
        f"{answer}; the end of its log:\n{process.log_end()}"
    )
