"""`/metrics`: what Prometheus would read."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from gateway_fixtures import (
    BROKEN_PHOTO,
    PHOTO,
    Gateway,
    StandInTorchServe,
    identify,
    identify_raw,
)
from prometheus_client.parser import text_string_to_metric_families

from gateway.app import create_app
from gateway.keys import KeyStore


def figures(gateway: Gateway, **headers: str) -> dict[str, float]:
    """All samples, named as Prometheus writes them: `name{label="value"}`."""
    response = requests.get(f"{gateway.url}/metrics", headers=headers, timeout=30)
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("text/plain; version=")
    samples = {}
    for family in text_string_to_metric_families(response.text):
        assert family.name.startswith("carid_gateway_")
        assert family.documentation
        for sample in family.samples:
            labels = ",".join(f'{key}="{value}"' for key, value in sorted(sample.labels.items()))
            name = sample.name.removeprefix("carid_gateway_")
            samples[f"{name}{{{labels}}}" if labels else name] = sample.value
    return samples


def test_requests_are_counted_by_route_method_and_status(gateway: Gateway) -> None:
    identify(gateway, PHOTO)
    identify(gateway, PHOTO)
    identify(gateway, BROKEN_PHOTO)
    requests.get(f"{gateway.url}/v1/identify", timeout=30)
    seen = figures(gateway)
    assert seen['requests_total{method="POST",route="/v1/identify",status="200"}'] == 2
    assert seen['requests_total{method="POST",route="/v1/identify",status="422"}'] == 1
    assert seen['requests_total{method="GET",route="/v1/identify",status="405"}'] == 1


def test_errors_are_counted_by_code(gateway: Gateway) -> None:
    identify(gateway, BROKEN_PHOTO)
    identify(gateway)
    requests.get(f"{gateway.url}/nowhere", timeout=30)
    gateway.app.state.readiness = None
    requests.get(f"{gateway.url}/readyz", timeout=30)
    seen = figures(gateway)
    for code in ("image_unreadable", "image_missing", "not_found", "internal_error"):
        assert seen[f'errors_total{{code="{code}"}}'] == 1, code


def test_made_up_paths_and_methods_make_no_labels(gateway: Gateway) -> None:
    for number in range(20):
        requests.get(f"{gateway.url}/made/up/{number}", timeout=30)
        requests.request(f"MADEUP{number}", f"{gateway.url}/healthz", timeout=30)
        requests.get(f"{gateway.url}/swagger/assets/{number}.js", timeout=30)
    seen = figures(gateway)
    assert seen['requests_total{method="GET",route="none",status="404"}'] == 20
    assert seen['requests_total{method="GET",route="/swagger/assets/{path}",status="404"}'] == 20
    assert sum("made" in name.lower() or ".js" in name for name in seen) == 0


def test_latency_is_in_seconds(gateway: Gateway, torchserve: StandInTorchServe) -> None:
    torchserve.delay = 0.3
    identify(gateway, PHOTO)
    seen = figures(gateway)
    assert seen['request_seconds_count{route="/v1/identify"}'] == 1
    assert 0.3 <= seen['request_seconds_sum{route="/v1/identify"}'] < 3
    assert seen['request_seconds_bucket{le="0.25",route="/v1/identify"}'] == 0
    assert seen['request_seconds_bucket{le="60.0",route="/v1/identify"}'] == 1


def test_each_photo_is_counted_by_its_outcome(gateway: Gateway) -> None:
    identify(gateway, PHOTO, BROKEN_PHOTO, PHOTO)
    seen = figures(gateway)
    assert seen['photos_total{outcome="identified"}'] == 2
    assert seen['photos_total{outcome="image_unreadable"}'] == 1


def test_what_is_under_way_shows_and_goes(gateway: Gateway, torchserve: StandInTorchServe) -> None:
    torchserve.delay = 1.5
    body = PHOTO + bytes(100_000)
    upload = threading.Thread(target=identify_raw, args=(gateway, body))
    upload.start()
    time.sleep(0.7)
    during = figures(gateway)
    upload.join()
    after = figures(gateway)
    assert during["requests_in_flight"] == 2, "the upload, and the question itself"
    assert after["requests_in_flight"] == 1
    assert during["upload_memory_bytes"] == len(body)
    assert after["upload_memory_bytes"] == 0


def test_refusals_count_under_the_route_they_were_for(
    start_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    file = tmp_path / "api_keys.json"
    slow, good = KeyStore(file).create("slow", per_minute=1), KeyStore(file).create("good")
    gateway = start_gateway(access="anonymous", anonymous_per_minute=1, api_keys_file=file)
    for _ in range(3):
        identify(gateway, PHOTO)
    for _ in range(2):
        identify(gateway, PHOTO, headers={"X-API-Key": slow})
    identify(gateway, PHOTO, headers={"X-API-Key": "carid_wrong"})
    seen = figures(gateway, **{"X-API-Key": good})
    assert seen['requests_total{method="POST",route="/v1/identify",status="401"}'] == 1
    assert seen['requests_total{method="POST",route="/v1/identify",status="429"}'] == 3
    assert seen['rate_limited_total{caller="anonymous"}'] == 2
    assert seen['rate_limited_total{caller="key"}'] == 1


def test_a_canarys_agreement_shows(start_gateway: Callable[..., Gateway], tmp_path: Path) -> None:
    file = tmp_path / "canary.json"
    gateway = start_gateway(canary_file=file)
    assert figures(gateway)["canary_compared_total"] == 0
    file.write_text(json.dumps({"version": "1.1", "share": 0.0}))
    requests.get(f"{gateway.url}/v1/models", timeout=30)  # it takes notice
    identify(gateway, PHOTO)
    trial = requests.get(f"{gateway.url}/v1/models", timeout=30).json()["canary"]
    assert trial is not None
    seen = figures(gateway)
    for name in ("compared", "agreed", "failed"):
        assert seen[f"canary_{name}_total"] == 0


@pytest.mark.parametrize("name", ["compared", "agreed", "failed"])
def test_a_canarys_counts_are_its_own(name: str) -> None:
    app = create_app()

    class Canary:
        compared, agreed, failed = 120, 118, 2

    registry = app.state.metrics.registry
    assert registry.get_sample_value(f"carid_gateway_canary_{name}_total") == 0
    metrics = type(app.state.metrics)()
    metrics.watch_canary(Canary())
    sample = metrics.registry.get_sample_value(f"carid_gateway_canary_{name}_total")
    assert sample == getattr(Canary, name)


def test_many_applications_in_one_process_count_for_themselves(
    start_gateway: Callable[..., Gateway],
) -> None:
    one, another = start_gateway(), start_gateway()
    identify(one, PHOTO)
    route = 'requests_total{method="POST",route="/v1/identify",status="200"}'
    assert figures(one)[route] == 1
    assert route not in figures(another)
