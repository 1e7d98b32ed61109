"""A gateway that other machines can reach, in a process of its own, and how to talk to it."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from gateway_fixtures import (
    Gateway,
    StandInTorchServe,
    serving,
)

from benchmarks.service import free_ports
from gateway.keys import KeyStore

ROOT = Path(__file__).resolve().parent.parent
# Short for those that dribble, and long enough for 30 MB on a busy machine.
UPLOAD_TIMEOUT_S = 4.0


@dataclass(frozen=True)
class PublicGateway:
    """`python -m gateway` on all addresses of this machine, in a process of its own."""

    url: str
    pid: int
    store: KeyStore
    first_key: str
    log: Path

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        assert parts.hostname
        assert parts.port
        return parts.hostname, parts.port


@contextmanager
def public_gateway(
    torchserve: StandInTorchServe, folder: Path, **environment: str
) -> Iterator[PublicGateway]:
    [port] = free_ports(1)
    log = folder / "gateway.log"
    keys = folder / "api_keys.json"
    inherited = {name: value for name, value in os.environ.items() if name[:6] != "CARID_"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway"],
            cwd=ROOT,
            env={
                **inherited,
                "CARID_HOST": "0.0.0.0",
                "CARID_PORT": str(port),
                "CARID_INFERENCE_URL": torchserve.url,
                "CARID_MANAGEMENT_URL": torchserve.url,
                "CARID_KEY_FILE": str(torchserve.key_file),
                "CARID_API_KEYS_FILE": str(keys),
                "CARID_UPLOAD_TIMEOUT_S": str(UPLOAD_TIMEOUT_S),
                **environment,
            },
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while not answers(url):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        found = re.search(r"carid_\S+", log.read_text())
        first_key = found.group() if found else ""
        yield PublicGateway(url, process.pid, KeyStore(keys), first_key, log)
    finally:
        process.terminate()
        process.wait(30)


def answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/healthz", timeout=5).ok
    except requests.ConnectionError:
        return False


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PublicGateway]:
    """A public gateway that has just been started for the first time."""
    folder = tmp_path_factory.mktemp("public")
    stand_in = StandInTorchServe(folder / "key_file.json")
    with serving(stand_in.app) as stand_in.url, public_gateway(stand_in, folder) as running:
        yield running


@pytest.fixture
def key(public: PublicGateway, request: pytest.FixtureRequest) -> dict[str, str]:
    """A key of the test's own, as a header."""
    return {"X-API-Key": public.store.create(re.sub(r"\W", "_", request.node.name)[:64])}


def as_gateway(public: PublicGateway) -> Gateway:
    """For the helpers that post photos; the application is in another process."""
    return Gateway(public.url, None)


def request_head(length: int, more: str = "", content_type: str = "image/jpeg") -> bytes:
    return (
        f"POST /v1/identify HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {length}\r\n{more}\r\n"
    ).encode()


def talk(public: PublicGateway, request: str) -> bytes:
    """Send bytes as they are, and read until the other end hangs up."""
    with socket.create_connection(public.address, timeout=10) as connection:
        connection.sendall(request.encode())
        return all_of(connection)


def all_of(connection: socket.socket) -> bytes:
    """What comes until the other end hangs up."""
    answer = b""
    while more := connection.recv(10_000):
        answer += more
    return answer


def peak_memory(pid: int) -> int:
    """The most memory, in bytes, that a process ever had."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        pytest.skip("needs Linux's /proc")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
    assert found
    return int(found.group(1)) * 1024
