"""`carid bulk --address` on a real Ray cluster: a head that does no work, and a node that does.

Both are on this machine, but the code is not where they could find it: see `start_and_hide`.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from factories import BLUE, GREEN, RED, build_tiny_archive, encode, picture
from live_stack import descendants, still_running

from benchmarks.service import free_ports

ROOT = Path(__file__).resolve().parent.parent
RAY = str(Path(sys.executable).with_name("ray"))
PHOTOS = 40
PATIENCE = 120

# `carid bulk`, whose own code goes away as soon as it has joined the cluster: what the workers
# import then is what they were sent.
START_AND_HIDE = """
import shutil, sys
import bulk.results, bulk.run, bulk.worker, client.bulk_command
from client.cli import app

code = sys.argv.pop(1)
join = bulk.run._start

def start_and_hide(address):
    join(address)
    shutil.move(code, code + ".gone")

bulk.run._start = start_and_hide
app()
"""


@dataclass(frozen=True)
class Cluster:
    """A running one; `environment` is what leads to it."""

    port: int
    environment: dict[str, str]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


@contextmanager
def ray_node(*options: str, environment: dict[str, str]) -> Iterator[None]:
    """One of the cluster's machines; afterwards nothing of it runs."""
    command = [RAY, "start", "--block", "--node-ip-address=127.0.0.1", *options]
    log = Path(environment["RAY_TMPDIR"], f"{len(options)}.log")
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, cwd="/")
    try:
        deadline = time.monotonic() + 60
        while "block forever" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield
    finally:
        # Not `ray stop`, which ends all of the machine's, nor SIGTERM, which takes half a minute.
        family = {process.pid, *descendants(process.pid)}
        for pid in family:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.wait(30)
        while still_running(family):
            time.sleep(0.05)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head without cores and a node with one, which want a token, as Ray's own do by default."""
    folder = Path(tempfile.mkdtemp(prefix="ray"))  # pytest's names are too long for Ray's sockets
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    kept = {name: it for name, it in os.environ.items() if not name.startswith(("RAY", "PYTHON"))}
    environment = {
        **kept,
        "RAY_TMPDIR": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
    }
    [port] = free_ports(1)
    head = ("--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false")
    node = (f"--address=127.0.0.1:{port}", "--num-cpus=1")
    try:
        with (
            ray_node(*head, environment=environment),
            ray_node(*node, environment=environment),
        ):
            yield Cluster(port, environment)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_archive(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(PHOTOS):
        colour = (RED, GREEN, BLUE)[number % 3]
        (folder / f"{number:02}.jpg").write_bytes(encode(picture(colour)))
    return folder


def bulk(
    cluster: Cluster, folder: Path, *arguments: object, **changes: str
) -> subprocess.CompletedProcess[str]:
    """Run the command from a copy of the code, in a folder from which no import leads to it."""
    code = folder / "code"
    for package in ("bulk", "client", "gateway", "handler"):
        shutil.copytree(ROOT / package, code / package)
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    script = folder / "carid.py"
    script.write_text(START_AND_HIDE)
    return subprocess.run(
        [sys.executable, str(script), str(code), "bulk", *map(str, arguments)],
        cwd=elsewhere,
        env={**cluster.environment, "PYTHONPATH": str(code), **changes},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


@pytest.mark.parametrize("kind", ["HOST:PORT", "auto"])
@pytest.mark.parametrize("scheme", ["", "fsspec+file://"], ids=["shared disk", "fsspec"])
def test_another_machine_answers_with_code_and_archive_it_was_sent(
    cluster: Cluster, archive: Path, photos: Path, tmp_path: Path, kind: str, scheme: str
) -> None:
    address = cluster.address if kind == "HOST:PORT" else "auto"
    out = tmp_path / "out"
    finished = bulk(
        cluster, tmp_path, f"{scheme}{photos}", out, "--archive", archive, "--address", address
    )
    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "code.gone").exists(), "the code did not go away: the test shows nothing"
    rows = pq.read_table(out / "answers").to_pylist()
    names = sorted(file.name for file in photos.iterdir())
    assert sorted(Path(row["photo"]).name for row in rows) == names
    assert {row["status"] for row in rows} == {"answered"}


def test_more_cores_than_any_machine_has_are_not_waited_for(
    cluster: Cluster, archive: Path, photos: Path, tmp_path: Path
) -> None:
    """Two machines of a core each: a single worker gets one core, and not two."""
    node = (f"--address={cluster.address}", "--num-cpus=1", "--resources={}")
    with ray_node(*node, environment=cluster.environment):
        finished = bulk(
            cluster, tmp_path, photos, tmp_path / "out", "--archive", archive,
            "--address", cluster.address, "--workers", 1,
        )  # fmt: skip
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize(
    ("address", "changes", "told"),
    [
        (None, {"RAY_AUTH_MODE": "disabled"}, "wants its token: export RAY_AUTH_MODE=token"),
        ("ray://127.0.0.1:10001", {}, "is for Ray's client"),
        ("127.0.0.1:9", {}, "can't join a Ray cluster at 127.0.0.1:9: .*refused"),
        ("nonsense", {}, "can't join a Ray cluster at nonsense"),
    ],
    ids=["no token", "Ray's client", "nobody there", "no address"],
)
def test_who_cannot_join_is_told_what_to_do(
    cluster: Cluster, archive: Path, photos: Path, tmp_path: Path,
    address: str | None, changes: dict[str, str], told: str,
) -> None:  # fmt: skip
    where = ("--address", address or cluster.address)
    out = tmp_path / "out"
    finished = bulk(cluster, tmp_path, photos, out, "--archive", archive, *where, **changes)
    assert finished.returncode == 2
    assert re.search(told, finished.stderr), finished.stderr
    assert len(finished.stderr.splitlines()) == 1, finished.stderr
