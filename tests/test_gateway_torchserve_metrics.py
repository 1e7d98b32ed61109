"""TorchServe's part of the gateway's `/metrics`: there, valid, and never in the way."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
import requests
from gateway_fixtures import (
    METRICS,
    PHOTO,
    Gateway,
    StandInTorchServe,
    identify,
    wait_for,
)
from monitoring_tools import tool
from prometheus_client.parser import text_string_to_metric_families
from test_gateway_metrics import figures

from gateway.settings import Settings
from gateway.torchserve_metrics import TorchServeMetrics, TorchServeSeen
from gateway.upstream import TorchServe

UNREACHABLE = "http://127.0.0.1:1"


def scrape(gateway: Gateway) -> str:
    """The whole answer."""
    response = requests.get(f"{gateway.url}/metrics", timeout=30)
    assert response.status_code == 200
    return response.text


def samples(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("#")]


def test_what_torchserve_shows_follows_the_gateways_own(gateway: Gateway) -> None:
    text = scrape(gateway)
    assert samples(text)[-5:] == samples(METRICS)
    assert figures(gateway)["torchserve_up"] == 1


def test_help_texts_help(gateway: Gateway) -> None:
    """TorchServe's own are its kind and unit."""
    text = scrape(gateway)
    assert "Torchserve prometheus" not in text
    assert "# HELP car_identifier_batch_size Photos that the worker answered together." in text


def test_unknown_help_texts_are_kept(gateway: Gateway, torchserve: StandInTorchServe) -> None:
    torchserve.metrics = "# HELP new What is new.\n# TYPE new gauge\nnew 1.0\n"
    assert scrape(gateway).endswith(torchserve.metrics)


@pytest.mark.parametrize(
    "torchserves",
    [
        pytest.param("<html><p>no metrics at all</p></html>", id="another page"),
        pytest.param(
            '# TYPE a gauge\na{b="c} 1.0\na{b="c"} one\na 1.0 2.0 3.0\n', id="broken lines"
        ),
        pytest.param(METRICS + METRICS, id="families twice"),
        pytest.param("# TYPE a gauge\na 1.0\nb 1.0\n# TYPE c gauge\n", id="a stranger's sample"),
        pytest.param(
            "# TYPE a gauge\na 1.0\ncarid_gateway_requests_in_flight 5.0\n",
            id="the gateway's sample",
        ),
        pytest.param(
            "# TYPE carid_gateway_photos_total counter\ncarid_gateway_photos_total 5.0\n",
            id="the gateway's names",
        ),
        pytest.param(METRICS[: len(METRICS) // 2], id="cut off"),
        pytest.param("# TYPE a gauge\na NaN\n# TYPE b gauge\nb -Inf\n", id="no numbers"),
        pytest.param("", id="nothing"),
    ],
)
def test_nothing_that_torchserve_says_makes_the_answer_invalid(
    gateway: Gateway, torchserve: StandInTorchServe, torchserves: str
) -> None:
    torchserve.metrics = torchserves
    text = scrape(gateway)
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families)
    check = subprocess.run(
        [tool("promtool"), "check", "metrics"], input=text, capture_output=True, text=True
    )
    # 3 is a matter of style, of TorchServe's names; 1 is an answer that can't be read.
    assert check.returncode in (0, 3), check.stderr
    assert "error while linting" not in check.stderr


def test_the_gateways_own_names_are_as_they_should_be(gateway: Gateway) -> None:
    identify(gateway, PHOTO)
    own = scrape(gateway).partition("# HELP ts_")[0]
    check = subprocess.run(
        [tool("promtool"), "check", "metrics"], input=own, capture_output=True, text=True
    )
    assert (check.returncode, check.stderr) == (0, "")


def test_workers_and_versions_show(gateway: Gateway, torchserve: StandInTorchServe) -> None:
    torchserve.workers = ["READY", "UNLOADING"]
    torchserve.others = {"1.1": ["READY"]}
    seen = figures(gateway)
    assert seen['workers{ready="true",version="1.0"}'] == 1
    assert seen['workers{ready="false",version="1.0"}'] == 1
    assert seen['workers{ready="true",version="1.1"}'] == 1
    assert seen['workers{ready="false",version="1.1"}'] == 0
    assert seen['model_info{default="true",version="1.0"}'] == 1
    assert seen['model_info{default="false",version="1.1"}'] == 1
    start = datetime(2026, 1, 1, 0, 0, 0, 500_000, tzinfo=UTC).timestamp()
    assert seen['worker_start_time_seconds{version="1.0",worker="9000"}'] == start
    assert seen['worker_pid{version="1.0",worker="9001"}'] == 4001
    assert seen['model_queue_photos{version="1.0"}'] == 4
    assert seen['model_queue_capacity{version="1.0"}'] == 64


def test_a_model_without_workers_shows_none(
    gateway: Gateway, torchserve: StandInTorchServe
) -> None:
    torchserve.workers = []
    seen = figures(gateway)
    assert seen['workers{ready="true",version="1.0"}'] == 0
    assert not [name for name in seen if name.startswith("worker_pid")]


def test_a_torchserve_that_is_gone_leaves_the_gateways_figures(
    start_gateway: Callable[..., Gateway],
) -> None:
    gateway = start_gateway(metrics_url=UNREACHABLE, management_url=UNREACHABLE)
    identify(gateway, PHOTO)
    seen = figures(gateway)
    assert seen["torchserve_up"] == 0
    assert seen['photos_total{outcome="identified"}'] == 1
    assert not [name for name in seen if name.startswith(("workers", "model_info"))]


def test_a_metrics_port_that_is_gone_leaves_the_workers(
    start_gateway: Callable[..., Gateway],
) -> None:
    seen = figures(start_gateway(metrics_url=UNREACHABLE))
    assert seen["torchserve_up"] == 0
    assert seen['workers{ready="true",version="1.0"}'] == 1


def test_a_slow_torchserve_costs_a_scrape_two_seconds(
    gateway: Gateway, torchserve: StandInTorchServe
) -> None:
    start = time.monotonic()
    with torchserve.holding("metrics"):
        seen = figures(gateway)
    assert seen["torchserve_up"] == 0
    assert 1.9 < seen["torchserve_scrape_seconds"] <= time.monotonic() - start
    assert seen['workers{ready="true",version="1.0"}'] == 1


class CountedLooks(TorchServeMetrics):
    """With patience for what a test holds back.

    Attributes:
        looks: how often somebody began to ask.
    """

    def __init__(self, torchserve: StandInTorchServe) -> None:
        settings = Settings(
            metrics_url=torchserve.url,
            management_url=torchserve.url,
            key_file=torchserve.key_file,
        )
        super().__init__(TorchServe(settings), patience_s=60)
        self.looks = 0

    async def look(self) -> TorchServeSeen:
        self.looks += 1
        return await super().look()


def test_who_asks_at_the_same_time_shares_one_look(
    gateway: Gateway, torchserve: StandInTorchServe
) -> None:
    gateway.app.state.torchserve_metrics = metrics = CountedLooks(torchserve)
    with ThreadPoolExecutor(5) as pool, torchserve.holding("metrics"):
        texts = [pool.submit(scrape, gateway) for _ in range(5)]
        wait_for(lambda: metrics.looks == 5)
    assert [samples(text.result())[-5:] for text in texts] == [samples(METRICS)] * 5
    assert torchserve.scrapes == 1
    scrape(gateway)
    assert torchserve.scrapes == 2, "what was seen is not kept"


def test_who_gives_up_does_not_take_the_answer_from_others(torchserve: StandInTorchServe) -> None:
    async def both() -> TorchServeSeen:
        metrics = CountedLooks(torchserve)
        with torchserve.holding("metrics"):
            hasty, other = (asyncio.create_task(metrics.look()) for _ in range(2))
            while not torchserve.scrapes:
                await asyncio.sleep(0.01)
            hasty.cancel()
        return await other

    seen = asyncio.run(both())
    assert [line for line in seen.lines or () if not line.startswith("#")] == samples(METRICS)
