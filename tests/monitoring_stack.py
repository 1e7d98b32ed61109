"""A real Prometheus and a real Alertmanager, with deploy/monitoring's files, for a live service."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import requests
import yaml
from monitoring_tools import copy_of_the_files, tool

from benchmarks.service import free_ports

__all__ = ["Inbox", "Prometheus", "inbox", "started_alertmanager", "started_prometheus", "until"]

# Longer than the two seconds that a scrape of a service without its TorchServe takes.
INTERVAL = "3s"


def until(condition: Callable[[], object], timeout: float, what: str) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.3)


@dataclass(frozen=True)
class Prometheus:
    """A running one."""

    url: str

    def get(self, path: str, **query: str) -> Any:
        """What its API answers."""
        answer = requests.get(f"{self.url}/api/v1/{path}", params=query, timeout=30).json()
        assert answer["status"] == "success", f"{query}: {answer.get('error')}"
        return answer["data"]

    def samples(self, expression: str) -> list[dict[str, Any]]:
        """What the expression gives now; no sample whose value is no number."""
        found = self.get("query", query=expression)["result"]
        return [sample for sample in found if sample["value"][1] != "NaN"]

    def value(self, expression: str) -> float | None:
        """The one value that the expression gives now."""
        found = self.samples(expression)
        assert len(found) < 2, found
        return float(found[0]["value"][1]) if found else None

    def state(self, alert: str) -> str:
        """How an alert is: inactive, pending or firing."""
        states = {found["labels"]["alertname"]: found["state"] for found in self.active()}
        return states.get(alert, "inactive")

    def active(self) -> list[dict[str, Any]]:
        """All alerts that are pending or firing."""
        found: list[dict[str, Any]] = self.get("alerts")["alerts"]
        return found


class Inbox(ThreadingHTTPServer):
    """Where Alertmanager sends alerts to."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Receiver)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.mails: list[dict[str, Any]] = []

    def has(self, alert: str, status: str) -> bool:
        """Whether somebody was told that the alert is `firing` or `resolved`."""
        return any(
            (told["labels"]["alertname"], told["status"]) == (alert, status)
            for mail in self.mails
            for told in mail["alerts"]
        )


class _Receiver(BaseHTTPRequestHandler):
    server: Inbox

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.mails.append({**json.loads(body), "path": self.path})
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def inbox() -> Iterator[Inbox]:
    """An inbox that listens."""
    with Inbox() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@contextmanager
def started_alertmanager(folder: Path, inbox_url: str) -> Iterator[str]:
    """Alertmanager with the example's configuration, but in a hurry; yields its address."""
    config = (copy_of_the_files(folder) / "alertmanager.yml").read_text()
    config = re.sub(r"url: http://(\w+)\.example\.org/alerts", rf"url: {inbox_url}/\1", config)
    config = re.sub(r"(group_wait|group_interval): \w+", r"\1: 1s", config)
    file = folder / "alertmanager.yml"
    file.write_text(config)
    [port] = free_ports(1)
    command = [
        *(tool("prometheus-alertmanager"), f"--config.file={file}"),
        *(f"--storage.path={folder / 'alertmanager'}", f"--web.listen-address=127.0.0.1:{port}"),
        "--cluster.listen-address=",  # alone
    ]
    with _running(command, folder / "alertmanager.log", f"http://127.0.0.1:{port}") as url:
        yield url


@contextmanager
def started_prometheus(
    folder: Path, target: str, key: str, alertmanager: str
) -> Iterator[Prometheus]:
    """Prometheus with the configuration and the rules of the repository, but in a hurry.

    Args:
        folder: for all it writes.
        target: host and port of a gateway.
        key: an API key of it.
        alertmanager: host and port.
    """
    files = copy_of_the_files(folder)
    (files / "api_key").write_text(key)
    text = (files / "prometheus.yml").read_text()
    # The part that waits for an Alertmanager, as an operator would make it count.
    text = re.sub(r"^# (alerting:|  +.*)$", r"\1", text, flags=re.MULTILINE)
    config = yaml.safe_load(text)
    config["global"] = dict.fromkeys(
        ("scrape_interval", "scrape_timeout", "evaluation_interval"), INTERVAL
    )
    assert config["scrape_configs"][0]["static_configs"] == [{"targets": ["car-identifier:8000"]}]
    config["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
    assert config["alerting"]["alertmanagers"][0]["static_configs"]
    config["alerting"]["alertmanagers"][0]["static_configs"] = [{"targets": [alertmanager]}]
    (files / "prometheus.yml").write_text(yaml.safe_dump(config))
    for rules in (files / "rules").glob("*.yml"):
        hurried = re.sub(
            r"^( +(?:for|interval)): \w+$", rf"\1: {INTERVAL}", rules.read_text(), flags=re.M
        )
        rules.write_text(hurried)
    [port] = free_ports(1)
    command = [
        *(tool("prometheus"), f"--config.file={files / 'prometheus.yml'}"),
        *(f"--storage.tsdb.path={folder / 'tsdb'}", f"--web.listen-address=127.0.0.1:{port}"),
    ]
    with _running(command, folder / "prometheus.log", f"http://127.0.0.1:{port}") as url:
        yield Prometheus(url)


@contextmanager
def _running(command: list[str], log: Path, url: str) -> Iterator[str]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)

    def is_ready() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return requests.get(f"{url}/-/ready", timeout=5).ok
        except requests.ConnectionError:
            return False

    try:
        until(is_ready, 60, log.name)
        yield url
    finally:
        process.terminate()
        process.wait(30)
