"""`/metrics`: what Prometheus would read."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from gateway_fixtures import (
    BROKEN_PHOTO,
    HUMMER,
    PHOTO,
    WORKER_DIED,
    Gateway,
    StandInTorchServe,
    identify,
    identify_raw,
    wait_for,
)
from prometheus_client.parser import text_string_to_metric_families

from gateway.app import create_app
from gateway.canary import Trial
from gateway.keys import KeyStore


def figures(gateway: Gateway, **headers: str) -> dict[str, float]:
    """The gateway's own samples, as `name{label="value"}` without `carid_gateway_`."""
    response = requests.get(f"{gateway.url}/metrics", headers=headers, timeout=30)
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    samples = {}
    families = [
        family
        for family in text_string_to_metric_families(response.text)
        if family.name.startswith("carid_gateway_")
    ]
    assert len({family.name for family in families}) == len(families)
    for family in families:
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
    start = time.monotonic()
    identify(gateway, PHOTO)
    seen = figures(gateway)
    took = time.monotonic() - start
    assert seen['request_seconds_count{route="/v1/identify"}'] == 1
    assert 0.3 <= seen['request_seconds_sum{route="/v1/identify"}'] <= took
    assert seen['request_seconds_bucket{le="0.25",route="/v1/identify"}'] == 0
    assert seen['request_seconds_bucket{le="60.0",route="/v1/identify"}'] == 1


def test_each_photo_is_counted_by_its_outcome(gateway: Gateway) -> None:
    identify(gateway, PHOTO, BROKEN_PHOTO, PHOTO)
    seen = figures(gateway)
    assert seen['photos_total{outcome="identified"}'] == 2
    assert seen['photos_total{outcome="image_unreadable"}'] == 1


def test_confidence_is_that_of_users_photos_that_show_a_car(
    gateway: Gateway, torchserve: StandInTorchServe
) -> None:
    requests.get(f"{gateway.url}/readyz", timeout=30)  # its own photo is nobody's
    identify(gateway, PHOTO, BROKEN_PHOTO, PHOTO)
    torchserve.verdict = "not_a_car"
    identify(gateway, PHOTO)
    seen = figures(gateway)
    assert seen['photos_total{outcome="not_a_car"}'] == 1
    assert seen['confidence_count{version="1.0"}'] == 2
    assert seen['confidence_sum{version="1.0"}'] == pytest.approx(1.8)
    assert seen['confidence_bucket{le="0.8",version="1.0"}'] == 0
    assert seen['confidence_bucket{le="0.9",version="1.0"}'] == 2


def test_what_is_under_way_shows_and_goes(gateway: Gateway, torchserve: StandInTorchServe) -> None:
    body = PHOTO + bytes(100_000)
    with ThreadPoolExecutor(1) as pool, torchserve.holding():
        pool.submit(identify_raw, gateway, body)
        wait_for(lambda: torchserve.photos)
        during = figures(gateway)
    after = figures(gateway)
    assert during["requests_in_flight"] == 2, "the upload, and the question itself"
    assert after["requests_in_flight"] == 1
    assert during["upload_memory_bytes"] == len(body)
    assert during["upload_memory_limit_bytes"] == 1000 * 2**20
    assert (during["photos_under_way"], after["photos_under_way"]) == (1, 0)
    assert after["upload_memory_bytes"] == 0


def test_what_alerts_are_about_shows_before_it_happens(gateway: Gateway) -> None:
    """A counter that begins at 1 never rose, as far as Prometheus can tell."""
    seen = figures(gateway)
    for name in (
        'requests_total{method="POST",route="/v1/identify",status="503"}',
        'requests_total{method="POST",route="/cars/v1/get_car_details",status="500"}',
        'requests_total{method="POST",route="/v1/identify",status="504"}',
        'errors_total{code="unauthorized"}',
        'errors_total{code="server_busy"}',
        'rate_limited_total{caller="key"}',
        'photos_total{outcome="model_unavailable"}',
        'photos_total{outcome="not_a_car"}',
    ):
        assert seen[name] == 0


def test_photos_that_wait_for_their_turn_show(
    start_gateway: Callable[..., Gateway], torchserve: StandInTorchServe
) -> None:
    gateway = start_gateway(upstream_connections=1)
    start = time.monotonic()
    with ThreadPoolExecutor(1) as pool, torchserve.holding():
        pool.submit(identify, gateway, PHOTO, PHOTO, PHOTO)
        wait_for(lambda: figures(gateway)["photos_waiting"] == 2)
        during = figures(gateway)
        time.sleep(0.3)  # what two of them wait at least
    after = figures(gateway)
    took = time.monotonic() - start
    assert (during["photos_under_way"], during["photos_waiting"]) == (1, 2)
    assert (after["photos_under_way"], after["photos_waiting"]) == (0, 0)
    assert after["photo_wait_seconds_count"] == 3
    assert after['photo_wait_seconds_bucket{le="0.1"}'] <= 1
    assert 2 * 0.3 <= after["photo_wait_seconds_sum"] <= 3 * took


def test_the_disk_of_the_run_directory_shows(gateway: Gateway, tmp_path: Path) -> None:
    seen = figures(gateway)
    usage = shutil.disk_usage(tmp_path)
    assert seen["disk_free_bytes"] == pytest.approx(usage.free, rel=0.1)
    assert seen["disk_used_bytes"] == pytest.approx(usage.used, rel=0.1)


def test_a_run_directory_that_is_gone_is_no_reason_not_to_answer(
    start_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    seen = figures(start_gateway(key_file=tmp_path / "none" / "key_file.json"))
    assert "disk_free_bytes" not in seen
    assert seen["torchserve_up"] == 1


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


def test_a_canarys_agreement_shows(
    start_gateway: Callable[..., Gateway], torchserve: StandInTorchServe, tmp_path: Path
) -> None:
    file = tmp_path / "canary.json"
    torchserve.others["1.1"] = ["READY"]
    gateway = start_gateway(canary_file=file)

    def counts() -> list[float]:
        seen = figures(gateway)
        return [seen[f"canary_{name}_total"] for name in ("compared", "agreed", "failed")]

    assert counts() == [0, 0, 0]
    assert not [name for name in figures(gateway) if name.startswith("canary_share")]
    file.write_text(json.dumps({"version": "1.1", "share": 1.0}))
    identify(gateway, PHOTO)
    wait_for(lambda: counts() == [1, 1, 0])
    torchserve.sees["1.1"] = HUMMER
    identify(gateway, PHOTO)
    wait_for(lambda: counts() == [2, 1, 0])
    torchserve.broken["1.1"] = WORKER_DIED
    identify(gateway, PHOTO)
    assert counts() == [2, 1, 1]
    assert figures(gateway)['canary_share{version="1.1"}'] == 1
    file.write_text(json.dumps({"version": "1.1", "share": 0.0}))
    identify(gateway, PHOTO)
    assert counts() == [2, 1, 1]
    assert figures(gateway)['canary_share{version="1.1"}'] == 0


@pytest.mark.parametrize("name", ["compared", "agreed", "failed"])
def test_a_canarys_counts_are_its_own(name: str) -> None:
    app = create_app()

    class Canary:
        trial = Trial("1.1", 0.25)
        compared, agreed, failed = 120, 118, 2

    registry = app.state.metrics.registry
    assert registry.get_sample_value(f"carid_gateway_canary_{name}_total") == 0
    metrics = type(app.state.metrics)()
    metrics.watch_canary(Canary())
    sample = metrics.registry.get_sample_value(f"carid_gateway_canary_{name}_total")
    assert sample == getattr(Canary, name)
    assert (
        metrics.registry.get_sample_value("carid_gateway_canary_share", {"version": "1.1"}) == 0.25
    )


def test_many_applications_in_one_process_count_for_themselves(
    start_gateway: Callable[..., Gateway],
) -> None:
    one, another = start_gateway(), start_gateway()
    identify(one, PHOTO)
    route = 'requests_total{method="POST",route="/v1/identify",status="200"}'
    assert figures(one)[route] == 1
    assert route not in figures(another)
