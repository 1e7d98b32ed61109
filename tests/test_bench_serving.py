"""The serving benchmark measures what it says: against a small server, and over a tiny network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from factories import encode, picture

from benchmarks.serving.acceptance import acceptance
from benchmarks.serving.load import Load
from benchmarks.serving.servers import EAGER_SERVERS, LITSERVE_INT8, WORKER

ROOT = Path(__file__).resolve().parent.parent


class _Answering(BaseHTTPRequestHandler):
    """Takes some milliseconds per photo; every fifth request fails, and one hangs up."""

    protocol_version = "HTTP/1.1"
    seen: list[bytes]
    fails = False

    def do_POST(self) -> None:
        self.seen.append(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.headers["X-Key"] == "open"
        threading.Event().wait(0.005)
        if self.fails and len(self.seen) % 5 == 0:
            self.send_response(503)
        else:
            self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")
        if self.fails and len(self.seen) % 7 == 0:
            self.close_connection = True  # unannounced: the client's next request meets nobody

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def answering(*, fails: bool) -> Iterator[tuple[str, list[bytes]]]:
    seen: list[bytes] = []
    handler = type("Handler", (_Answering,), {"seen": seen, "fails": fails})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/predict", seen
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number in range(3):
        size = (64 + number, 48)
        (tmp_path / f"{number}.jpg").write_bytes(encode(picture(size=size)))
    return tmp_path


def run_generator(load: Load) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.serving.load"],
        input=json.dumps(asdict(load)), capture_output=True, text=True, cwd=ROOT, check=True,
    )  # fmt: skip
    warm, end, findings = done.stdout.splitlines()
    assert (warm, end) == ("warm", "done")
    result: dict[str, object] = json.loads(findings)
    return result


@pytest.mark.parametrize("form_field", [None, "photos"])
def test_every_answer_is_counted_once(photos: Path, form_field: str | None) -> None:
    with answering(fails=False) as (url, seen):
        load = Load(url, str(photos), 3, 0.5, 0.1, {"X-Key": "open"}, form_field)
        result = run_generator(load)
    latencies = result["latencies_ms"]
    assert isinstance(latencies, list)
    assert result["failed"] == {}
    assert min(latencies) >= 5
    # Three clients that wait at least 5 ms for each answer; and what came before and after the
    # measured time is not among them.
    assert 3 < len(latencies) < min(len(seen), 3 * result["seconds"] / 0.005 + 3)  # type: ignore[operator]
    files = [path.read_bytes() for path in sorted(photos.iterdir())]
    if form_field is None:
        assert set(seen) == set(files)
    else:
        assert all(any(file in body for file in files) for body in seen)
        assert b'name="photos"' in seen[0]


def test_failures_are_counted_by_reason_and_are_no_answers(photos: Path) -> None:
    with answering(fails=True) as (url, seen):
        result = run_generator(Load(url, str(photos), 1, 2.0, 0.0, {"X-Key": "open"}))
    failed, latencies = result["failed"], result["latencies_ms"]
    assert isinstance(failed, dict)
    assert isinstance(latencies, list)
    assert set(failed) == {"HTTP 503", "ConnectionError"}
    answered = len(latencies) + failed["HTTP 503"]
    assert 10 < answered < len(seen)  # not what came before and after the measured time
    assert failed["HTTP 503"] == pytest.approx(answered / 5, abs=1)


def test_the_worker_is_judged_by_its_ratios() -> None:
    def measured(photos_per_second: float, **figures: float) -> dict[str, object]:
        cell = {"photos_per_second": photos_per_second, **figures}
        return {"measured": {"small": {"1": cell, "16": cell}}}

    eager = dict(zip(EAGER_SERVERS, map(measured, [5.0, 11.0, *[6.0] * 6]), strict=True))
    results = {
        "ceiling": {
            "small": {"photos_per_second": 50, "cpu_seconds_per_photo": 0.04, "latency_ms": 20}
        },
        "contestants": {
            WORKER: measured(43.0, p50_ms=26.0, cpu_seconds_per_photo=0.05),
            LITSERVE_INT8: measured(43.0),
            **eager,
        },
    }
    judged = [(it["ratio"], it["met"]) for it in acceptance(results)]
    expected = [(1.25, False), (0.86, True), (43 / 11, False), (1.0, True), (1.3, True)]
    assert judged == [(pytest.approx(ratio), met) for ratio, met in expected]
    # What was not measured is not judged.
    del results["contestants"][LITSERVE_INT8]  # type: ignore[attr-defined]
    assert len(acceptance(results)) == 4


@pytest.mark.live
def test_one_command_measures_contestants_side_by_side(tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "benchmarks.serving", "--quick", "--clients", "1", "2"),
        *("--only", WORKER, "FastAPI, eager torch", "--kinds", "small"),
        *("--network", "resnet18", "--size", "32"),
        *("--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "results")),
    ]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    out = tmp_path / "results"
    results = json.loads((out / "serving.json").read_text())
    assert results["model"] == {"network": "resnet18", "size": 32, "classes": 196, "stand_in": True}
    assert list(results["contestants"]) == [WORKER, "through the gateway", "FastAPI, eager torch"]
    ceiling = results["ceiling"]["small"]
    assert ceiling["photos_per_second"] == max(
        way["photos_per_second"] for way in ceiling["ways"].values()
    )
    table = (out / "serving.md").read_text()
    for name, contestant in results["contestants"].items():
        assert contestant["peak_memory_bytes"] > 50e6
        cells = contestant["measured"]["small"]
        assert list(cells) == ["1", "2"]
        for clients, cell in cells.items():
            assert cell["failed"] == {}
            assert cell["answered"] > 0
            assert 0 < cell["p50_ms"] <= cell["p95_ms"] <= cell["p99_ms"]
            assert cell["of_ceiling"] == cell["photos_per_second"] / ceiling["photos_per_second"]
            assert cell["cpu_of_ceiling"] == pytest.approx(
                cell["cpu_seconds_per_photo"] / ceiling["cpu_seconds_per_photo"]
            )
            assert f"| {name} | {clients} | {cell['photos_per_second']:.1f} |" in table
    (judged,) = results["acceptance"]  # with 16 clients nothing was measured
    alone = results["contestants"][WORKER]["measured"]["small"]["1"]
    assert judged["ratio"] == alone["p50_ms"] / ceiling["latency_ms"]
    assert "<svg" in (out / "serving.svg").read_text()
    assert not [path for path in (tmp_path / "cache").iterdir() if path.name.startswith("tmp")]
