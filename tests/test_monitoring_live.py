"""The real service, watched by a real Prometheus that tells a real Alertmanager.

The tests build on each other in their order: first all is well and traffic comes, then a worker
dies, then TorchServe hangs.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import requests
from factories import GREY, encode, picture
from live_stack import ROOT, LiveStack, descendants, running_stack, wait_until_ready
from monitoring_stack import (
    Inbox,
    Prometheus,
    inbox,
    started_alertmanager,
    started_prometheus,
    until,
)
from monitoring_tools import alerts, metric_names, panels, recorded, selectors, tool
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from gateway.keys import KeyStore

pytestmark = [pytest.mark.live, pytest.mark.timeout(420)]

# A week's figures need a week: that they are right is shown by deploy/monitoring/tests. Those of a
# worker's memory come once a minute: the last test here waits for them.
NOT_YET = re.compile(r"7d\b|carid_gateway_worker_memory_bytes")
ARCHIVE = ROOT / "model_store/car_identifier.mar"
PROMETHEUS_OWN = {"up", "scrape_duration_seconds", "ALERTS"}


@dataclass(frozen=True)
class Watched:
    """A service with traffic, and who watches it."""

    service: LiveStack
    prometheus: Prometheus
    inbox: Inbox
    key: str

    def metrics(self) -> str:
        """What Prometheus reads."""
        headers = {"Authorization": f"Bearer {self.key}"}
        answer = requests.get(f"{self.service.url}/metrics", headers=headers, timeout=30)
        assert answer.status_code == 200
        return answer.text

    def management(self, method: str, path: str) -> list[dict[str, object]]:
        """TorchServe's answer to the operator."""
        key = json.loads(self.service.key_file.read_text())["management"]["key"]
        url = f"{self.service.management_url}/models/car_identifier{path}"
        headers = {"Authorization": f"Bearer {key}"}
        answer: list[dict[str, object]] = requests.request(
            method, url, headers=headers, timeout=60
        ).json()
        return answer


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    for name in ("prometheus", "prometheus-alertmanager"):
        tool(name)  # before anything is started in vain
    folder = tmp_path_factory.mktemp("watched")
    run_dir = folder / "run"
    run_dir.mkdir()
    # Reachable by other machines, so that keys are needed, as where it is really watched.
    with running_stack(run_dir, "--host", "0.0.0.0") as service, inbox() as letters:
        wait_until_ready(service)
        store = KeyStore(run_dir / "api_keys.json")
        key = store.create("prometheus", per_minute=100_000)
        slow = store.create("slow", per_minute=1)
        sides = [folder / name for name in ("alertmanager", "prometheus")]
        for side in sides:
            side.mkdir()
        target = urlsplit(service.url).netloc
        with (
            started_alertmanager(sides[0], letters.url) as alertmanager,
            started_prometheus(sides[1], target, key, urlsplit(alertmanager).netloc) as prometheus,
            traffic(service, key, slow),
        ):
            yield Watched(service, prometheus, letters, key)


def a_car() -> bytes:
    """A photo that the bundled network takes for a car, whichever it is: of its self-check."""
    with zipfile.ZipFile(ARCHIVE) as archive, archive.open("selfcheck.npz") as file:
        return encode(Image.fromarray(np.load(file)["images"][0]))


class traffic:  # noqa: N801 - read as a verb
    """Good photos and bad, several at once, and callers with the wrong key, until the end."""

    def __init__(self, service: LiveStack, key: str, slow: str) -> None:
        self._url = f"{service.url}/v1/identify"
        self._canary = service.run_dir / "canary.json"
        self._version_url = f"{service.url}/v1/models"
        self._key, self._slow = key, slow
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send)

    def __enter__(self) -> None:
        headers = {"X-API-Key": self._key}
        models = requests.get(self._version_url, headers=headers, timeout=30).json()
        # The default version on trial against itself: enough for the trial to show.
        trial = {"version": models["default_version"], "share": 0.1}
        self._canary.write_text(json.dumps(trial))
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _send(self) -> None:
        good = [a_car(), encode(picture(GREY), "WEBP")]
        bad = good[0][:300]
        while not self._stop.wait(0.3):
            for key, photos in (
                (self._key, [*good, bad]),
                (self._key, [bad]),
                (self._key, good[:1]),
                (self._slow, good[:1]),
                ("carid_wrong", good[:1]),
            ):
                form = [("file", (str(number), data)) for number, data in enumerate(photos)]
                headers = {"X-API-Key": key}
                requests.post(self._url, files=form, headers=headers, timeout=60)


def test_the_service_is_a_target_that_is_up(watched: Watched) -> None:
    def up() -> list[str]:
        targets = watched.prometheus.get("targets")["activeTargets"]
        return [target["labels"]["job"] for target in targets if target["health"] == "up"]

    until(lambda: up() == ["car-identifier"], 30, "the target is up")
    until(lambda: watched.prometheus.value("carid_gateway_torchserve_up") == 1, 30, "TorchServe's")


def test_promtool_has_nothing_to_say_but_of_torchserves_names(watched: Watched) -> None:
    text = watched.metrics()
    checked = subprocess.run(
        [tool("promtool"), "check", "metrics"], input=text, capture_output=True, text=True
    )
    assert checked.returncode in (0, 3), checked.stderr
    complaints = checked.stdout + checked.stderr
    assert "carid_gateway_" not in complaints
    assert "car_identifier_" not in complaints
    families = [family.name for family in text_string_to_metric_families(text)]
    assert len(families) == len(set(families))


@pytest.mark.parametrize("name", [name for name in recorded() if not NOT_YET.search(name)])
def test_a_recorded_series_is_there(watched: Watched, name: str) -> None:
    until(lambda: watched.prometheus.samples(name), 60, f"{name} has a value")


def test_every_rule_is_well(watched: Watched) -> None:
    groups = watched.prometheus.get("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == len(alerts()) + len(recorded())
    until(lambda: all_are_well(watched), 30, "rules are evaluated")


def all_are_well(watched: Watched) -> bool:
    groups = watched.prometheus.get("rules")["groups"]
    return all(rule["health"] == "ok" for group in groups for rule in group["rules"])


@pytest.mark.parametrize("title", panels())
def test_a_panel_has_something_to_show(watched: Watched, title: str) -> None:
    for expression in panels()[title]:
        if NOT_YET.search(expression):
            continue
        asked = (
            expression.replace("$__rate_interval", "30s")
            .replace("$job", "car-identifier")
            .replace("$instance", ".*")
        )
        assert "$" not in asked
        until(
            lambda asked=asked: watched.prometheus.samples(asked),
            30,
            f"{asked} has data",
        )


def test_a_worker_that_died_is_counted(watched: Watched) -> None:
    restarts = "sum(job_instance:carid_worker_restarts:changes1h)"
    until(lambda: watched.prometheus.value(restarts) == 0, 30, "none so far")
    [model] = watched.management("GET", "")
    [worker] = model["workers"]
    os.kill(worker["pid"], signal.SIGKILL)
    until(lambda: watched.prometheus.value(restarts) == 1, 60, "the restart shows")


def test_a_hanging_torchserve_is_told_to_who_is_on_call(watched: Watched) -> None:
    java = java_of(watched.service)
    os.kill(java, signal.SIGSTOP)
    try:
        assert "carid_gateway_torchserve_up 0.0" in watched.metrics()
        states = [watched.prometheus.state("CaridTorchServeGone")]

        def fires() -> bool:
            states.append(watched.prometheus.state("CaridTorchServeGone"))
            return states[-1] == "firing"

        until(fires, 60, "the alert fires")
        assert list(dict.fromkeys(states)) == ["inactive", "pending", "firing"]
        [alert] = [
            found
            for found in watched.prometheus.active()
            if found["labels"]["alertname"] == "CaridTorchServeGone"
        ]
        target = urlsplit(watched.service.url).netloc
        assert alert["annotations"]["summary"] == f"{target}: TorchServe does not answer"
        until(lambda: watched.inbox.has("CaridTorchServeGone", "firing"), 30, "somebody is told")
        [path] = {
            mail["path"]
            for mail in watched.inbox.mails
            if mail["commonLabels"].get("alertname") == "CaridTorchServeGone"
        }
        assert path == "/pager"
        assert watched.prometheus.value('up{job="car-identifier"}') == 1, "the gateway is well"
    finally:
        os.kill(java, signal.SIGCONT)
    until(lambda: watched.inbox.has("CaridTorchServeGone", "resolved"), 60, "it ends")


def test_what_an_alert_says_has_no_errors_in_it(watched: Watched) -> None:
    """Of all that were active meanwhile: bad callers, the refused, the restarted worker."""
    told = [
        *watched.prometheus.active(),
        *(alert for mail in watched.inbox.mails for alert in mail["alerts"]),
    ]
    assert {"CaridTorchServeGone"} <= {alert["labels"]["alertname"] for alert in told}
    for alert in told:
        for text in alert["annotations"].values():
            assert "error expanding" not in text
            assert "{{" not in text
            assert "<no value>" not in text


def test_a_workers_memory_shows_after_a_minute(watched: Watched) -> None:
    until(
        lambda: (watched.prometheus.value("carid_gateway_worker_memory_bytes") or 0) > 50e6,
        90,
        "the worker's memory shows",
    )


def test_every_name_that_is_asked_for_exists(watched: Watched) -> None:
    shown: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(watched.metrics()):
        shown.setdefault(family.name, set())
        for sample in family.samples:
            shown.setdefault(sample.name, set()).update(sample.labels)
    known = shown.keys() | recorded().keys() | PROMETHEUS_OWN
    expressions = [
        *recorded().values(),
        *(alert["expr"] for alert in alerts()),
        *(expression for expressions in panels().values() for expression in expressions),
    ]
    for expression in expressions:
        assert metric_names(expression) <= known, expression
        for name, label in selectors(expression):
            if name in shown and label not in ("job", "instance"):
                assert label in shown[name], f"{name} has no label {label}: {expression}"


def java_of(service: LiveStack) -> int:
    """The process that is TorchServe."""
    [java] = [
        pid
        for pid in descendants(service.process.pid)
        if Path(f"/proc/{pid}/exe").resolve().name == "java"
    ]
    return java
