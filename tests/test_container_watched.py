"""A real Prometheus watches the container, with the repository's rules."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from container_fixtures import image, photos
from monitoring_stack import inbox, started_alertmanager, started_prometheus, until
from monitoring_tools import tool

from benchmarks.containers import engine, running

# Fixtures: what a test file holds, pytest finds.
__all__ = ["image", "photos"]

pytestmark = pytest.mark.container


def test_it_is_scraped_with_a_key_and_its_end_is_told_to_who_is_on_call(
    image: str, photos: dict[str, bytes], tmp_path: Path
) -> None:
    for name in ("prometheus", "prometheus-alertmanager"):
        tool(name)  # before anything is started in vain
    sides = [tmp_path / name for name in ("alertmanager", "prometheus")]
    for side in sides:
        side.mkdir()
    with running(image) as container, inbox() as letters:
        key = container.run("carid", "keys", "create", "prometheus").stdout.split()[-1]
        target = urlsplit(container.url).netloc
        with (
            started_alertmanager(sides[0], letters.url) as alertmanager,
            started_prometheus(sides[1], target, key, urlsplit(alertmanager).netloc) as prometheus,
        ):
            headers = {"Content-Type": "image/jpeg", "X-API-Key": key}
            for photo in photos.values():
                url = f"{container.url}/v1/identify"
                assert requests.post(url, data=photo, headers=headers, timeout=60).ok
            until(lambda: prometheus.value("up") == 1, 30, "scraped")
            answered = "sum(car_identifier_answers_total)"
            until(lambda: (prometheus.value(answered) or 0) >= len(photos), 30, "photos counted")
            assert prometheus.value("carid_gateway_torchserve_up") == 1
            assert prometheus.state("CaridDown") == "inactive"
            engine("stop", "-t", "60", container.name)
            until(lambda: letters.has("CaridDown", "firing"), 60, "somebody was told")
