"""What the client asks with, and what it makes of the newer parts of answers and of refusals."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gateway_fixtures import CAR, HUMMER, REGION, serving, wait_for
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from client import (
    CarIdentifierClient,
    NotFoundError,
    RateLimitedError,
    RequestRefusedError,
    ServerUnavailableError,
    UnauthorizedError,
)
from client.identify_command import _AHEAD
from client.types import Canary, Heatmap, ModelVersion, Region

ROOT = Path(__file__).resolve().parent.parent
KEY = "carid_secret"
PNG = b"\x89PNG heatmap"
MODELS = {
    "name": "car_identifier",
    "default_version": "1.1",
    "versions": [
        {"version": "1.1", "default": True, "ready_workers": 1, "workers": 1, "newer": 1},
        {"version": "1.2", "default": False, "ready_workers": 0, "workers": 2},
    ],
    "canary": {"version": "1.2", "share": 0.1, "compared": 120, "agreed": 118},
}


class StandInGateway:
    """Answers as the contract says; a photo's bytes say what shall become of it.

    Attributes:
        asked: query parameters of each photo.
        keys: the Authorization header of each request.
        most_waiting: photos that were in its hands at a time.
        together: how many have to be, before the first of them is answered.
    """

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []
        self.keys: list[str | None] = []
        self.refusals = 0
        self.waiting = 0
        self.most_waiting = 0
        self.together = 1
        self.app = Starlette(
            routes=[
                Route("/v1/identify", self._identify, methods=["POST"]),
                Route("/v1/models", lambda _: JSONResponse(MODELS)),
            ]
        )

    async def _identify(self, request: Request) -> Response:
        photo = (await request.body()).decode()
        self.asked.append(dict(request.query_params))
        self.keys.append(request.headers.get("authorization"))
        if photo == "needs a key" and self.keys[-1] != f"Bearer {KEY}":
            return _error(401, "unauthorized")
        if photo == "too often":
            self.refusals += 1
            return _error(429, "rate_limited", {"Retry-After": "1"})
        if request.query_params.get("version") == "9.9":
            return _error(404, "unknown_version")
        if photo.startswith("wait "):
            self.waiting += 1
            self.most_waiting = max(self.most_waiting, self.waiting)
            while self.most_waiting < self.together and not await request.is_disconnected():
                await asyncio.sleep(0.01)
            await asyncio.sleep(float(photo.removeprefix("wait ")))
            self.waiting -= 1
        while photo == "endless" and not await request.is_disconnected():
            await asyncio.sleep(0.01)
        answer: dict[str, Any] = {
            **CAR,
            "confidence": 0.9,
            "make_confidence": 0.95,
            "verdict": "identified",
            "predictions": [{**CAR, "confidence": 0.9}, {**HUMMER, "confidence": 0.1}],
            "region": REGION,
            "warnings": [],
            "model_version": "1.1",
            "request_id": "r",
            "timing_ms": {},
        }
        if request.query_params.get("explain") == "true":
            png = base64.b64encode(PNG).decode()
            answer["heatmap"] = {"class_id": 13, "grid": [[0.5, 1.0]], "png": png}
        return JSONResponse(answer)


def _error(status: int, code: str, headers: dict[str, str] | None = None) -> Response:
    body = {"error": {"code": code, "message": "Do this."}, "request_id": "r"}
    return JSONResponse(body, status, headers=headers)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[StandInGateway, str]]:
    monkeypatch.delenv("CARID_API_KEY", raising=False)
    stand_in = StandInGateway()
    with serving(stand_in.app) as url:
        yield stand_in, url


def test_options_are_sent(server: tuple[StandInGateway, str]) -> None:
    stand_in, url = server
    with CarIdentifierClient(url) as client:
        client.identify(b"")
        client.identify(b"", top_k=3, version="1.2", explain=True, box=(1, 2, 30, 40))
        client.identify(b"", box="1,2,30,40")
    everything = {"top_k": "3", "version": "1.2", "explain": "true", "box": "1,2,30,40"}
    assert stand_in.asked == [{}, everything, {"box": "1,2,30,40"}]


def test_region_and_heatmap_are_typed(server: tuple[StandInGateway, str]) -> None:
    with CarIdentifierClient(server[1]) as client:
        assert client.identify(b"").heatmap is None
        answer = client.identify(b"", explain=True)
    assert answer.region == Region(0, 0, 640, 480, "photo")
    assert answer.heatmap == Heatmap(13, ((0.5, 1.0),), PNG)


def test_models(server: tuple[StandInGateway, str]) -> None:
    with CarIdentifierClient(server[1]) as client:
        table = client.models()
    assert (table.name, table.default_version) == ("car_identifier", "1.1")
    assert table.versions[0] == ModelVersion("1.1", True, 1, 1)
    assert table.canary == Canary("1.2", 0.1, 120, 118)


def test_the_key_comes_from_the_argument_or_the_environment(
    server: tuple[StandInGateway, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in, url = server
    with CarIdentifierClient(url) as client:
        client.identify(b"")
    monkeypatch.setenv("CARID_API_KEY", "from the environment")
    with CarIdentifierClient(url) as client, CarIdentifierClient(url, api_key=KEY) as other:
        client.identify(b"")
        other.identify(b"")
    assert stand_in.keys == [None, "Bearer from the environment", f"Bearer {KEY}"]


def test_a_password_in_netrc_does_not_take_the_keys_place(
    server: tuple[StandInGateway, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stand_in, url = server
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with CarIdentifierClient(url, api_key=KEY) as client:
        client._session.trust_env = True  # as for any server that is not on loopback
        client.identify(b"")
    assert stand_in.keys == [f"Bearer {KEY}"]


def test_each_refusal_is_told_from_the_others(server: tuple[StandInGateway, str]) -> None:
    stand_in, url = server
    with CarIdentifierClient(url, retries=1) as client:
        with pytest.raises(UnauthorizedError, match="CARID_API_KEY") as unauthorized:
            client.identify(b"needs a key")
        with pytest.raises(NotFoundError):
            client.identify(b"", version="9.9")
        start = time.monotonic()
        with pytest.raises(RateLimitedError) as limited:
            client.identify(b"too often")
    assert time.monotonic() - start >= 1, "Retry-After said one second"
    assert stand_in.refusals == 2
    assert isinstance(unauthorized.value, RequestRefusedError)
    assert isinstance(limited.value, ServerUnavailableError)
    assert (limited.value.status, limited.value.code) == (429, "rate_limited")


def carid(url: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "client", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "CARID_URL": url, **environment},
        timeout=60,
    )


@pytest.fixture
def waiting(tmp_path: Path) -> Path:
    """Photos of which the first ones take longest."""
    for number in range(12):
        (tmp_path / f"{number:02}.jpg").write_text(f"wait {0.4 - number * 0.03:.2f}")
    return tmp_path


def test_several_at_once_keep_their_order(
    server: tuple[StandInGateway, str], waiting: Path
) -> None:
    server[0].together = 12
    done = carid(server[1], "identify", waiting, "--csv", "--jobs", 12)
    assert done.returncode == 0, done.stderr
    heading, *lines = done.stdout.splitlines()
    assert heading.startswith("photo,verdict,label,make,model,body,year,class_id,confidence")
    assert [Path(line.partition(",")[0]).name for line in lines] == [
        f"{number:02}.jpg" for number in range(12)
    ]
    assert "identified,Audi TTS Coupe 2012,Audi,TTS,Coupe,2012,13,0.9" in lines[0]
    assert server[0].most_waiting == 12
    server[0].most_waiting, server[0].together = 0, 1
    one_by_one = carid(server[1], "identify", waiting, "--csv", "--jobs", 1)
    assert server[0].most_waiting == 1
    assert one_by_one.stdout == done.stdout


def test_quoted_patterns(server: tuple[StandInGateway, str], tmp_path: Path) -> None:
    (tmp_path / "deep" / "deeper").mkdir(parents=True)
    for name in ("a.jpg", "b.png", "deep/c.jpg", "deep/deeper/d.jpg", "deep/e [1].jpg"):
        (tmp_path / name).write_bytes(b"")

    def found(pattern: str) -> list[str]:
        lines = carid(server[1], "identify", tmp_path / pattern, "--csv").stdout.splitlines()[1:]
        return [str(Path(line.partition(",")[0]).relative_to(tmp_path)) for line in lines]

    assert found("*.jpg") == ["a.jpg"]
    assert found("**/*.jpg") == ["a.jpg", "deep/c.jpg", "deep/deeper/d.jpg", "deep/e [1].jpg"]
    assert found("deep/e [1].jpg") == ["deep/e [1].jpg"]
    assert carid(server[1], "identify", tmp_path / "*.webp").returncode == 1


def test_heatmaps_are_written_and_named(server: tuple[StandInGateway, str], tmp_path: Path) -> None:
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for name in ("car.jpg", "more/car.jpg"):
        (tmp_path / "photos" / name).write_bytes(b"")
    out = tmp_path / "heatmaps"
    done = carid(server[1], "identify", tmp_path / "photos", "--json", "--heatmap", out)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in out.iterdir()) == ["car.heatmap-2.png", "car.heatmap.png"]
    assert (out / "car.heatmap.png").read_bytes() == PNG
    assert str(out / "car.heatmap-2.png") in done.stdout.splitlines()[1]


def test_heatmaps_spare_the_photos_in_their_folder(
    server: tuple[StandInGateway, str], tmp_path: Path
) -> None:
    photo = tmp_path / "car.png"
    photo.write_bytes(b"")
    assert carid(server[1], "identify", photo, "--heatmap", tmp_path).returncode == 0
    assert photo.read_bytes() == b""
    assert (tmp_path / "car.heatmap.png").read_bytes() == PNG


def test_a_heatmap_that_cannot_be_written_is_told_of_its_photo(
    server: tuple[StandInGateway, str], tmp_path: Path
) -> None:
    (tmp_path / "car.jpg").write_bytes(b"")
    (tmp_path / "out" / "car.heatmap.png").mkdir(parents=True)
    done = carid(
        server[1], "identify", tmp_path / "car.jpg", "--json", "--heatmap", tmp_path / "out"
    )
    assert done.returncode == 1
    assert "heatmap_not_written" in done.stdout


def test_names_that_no_terminal_can_show_end_no_run(
    server: tuple[StandInGateway, str], tmp_path: Path
) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"")
    done = carid(server[1], "identify", tmp_path, "a" * 300, PYTHONIOENCODING="utf-8:strict")
    assert done.returncode == 1
    assert "caf\ufffd.jpg" in done.stdout
    assert "File name too long" in done.stdout
    assert not done.stderr


def test_a_key_that_cannot_be_one_is_a_line(
    server: tuple[StandInGateway, str], tmp_path: Path
) -> None:
    (tmp_path / "car.jpg").write_bytes(b"")
    done = carid(server[1], "identify", tmp_path, CARID_API_KEY="…")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "copy it again" in done.stderr


def test_a_missing_key_and_an_unknown_version_are_said_once(
    server: tuple[StandInGateway, str], tmp_path: Path
) -> None:
    for number in range(5):
        (tmp_path / f"{number}.jpg").write_text("needs a key")
    done = carid(server[1], "identify", tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert carid(server[1], "identify", tmp_path, CARID_API_KEY=KEY).returncode == 0
    done = carid(server[1], "identify", tmp_path, "--api-key", KEY, "--version", "9.9")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)


def test_ctrl_c_leaves_what_was_answered(
    server: tuple[StandInGateway, str], tmp_path: Path
) -> None:
    jobs = 2
    # One is asked about when another, that many before it, has been taken in.
    ahead = range(jobs * _AHEAD)
    photos = [tmp_path / f"{name}.jpg" for name in ("quick", "quicker", *ahead, "endless")]
    for photo in photos:
        photo.write_text(photo.stem)
    process = subprocess.Popen(
        [sys.executable, "-m", "client", "identify", f"--jobs={jobs}", *map(str, photos)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "CARID_URL": server[1]},
    )
    wait_for(lambda: len(server[0].asked) == len(photos))
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)  # nobody wants to wait for the rest
    assert process.returncode == 130
    assert "quick.jpg" in output
    assert "quicker.jpg" in output
    assert "endless.jpg" not in output
    assert "Traceback" not in errors


def test_json_and_csv_at_once_make_no_sense(server: tuple[StandInGateway, str]) -> None:
    assert carid(server[1], "identify", "x.jpg", "--json", "--csv").returncode == 2


def test_shell_completion_and_examples() -> None:
    script = carid("", _CARID_COMPLETE="source_bash").stdout
    assert "complete" in script
    assert "carid" in script
    for command in (["identify"], ["models", "swap"], ["models", "canary"]):
        assert "Example" in carid("", *command, "--help").stdout
