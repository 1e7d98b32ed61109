"""The live gateway against its own description, by requests that schemathesis makes of it.

All of schemathesis' checks run, none is excluded. The gateway asks for keys, as it does wherever it
is public, and has the real TorchServe behind it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import photo_strategies
import pytest
import requests
import schemathesis
import yaml
from hypothesis import settings
from live_stack import ROOT, LiveStack
from schemathesis.config import ChecksConfig, SchemathesisConfig

from benchmarks.service import free_ports
from gateway.keys import KeyStore

pytestmark = pytest.mark.live

DESCRIPTION = ROOT / "openapi" / "car-identifier.yaml"
EXAMPLES = 40  # of each kind and operation, besides those that its description alone brings about
START_TIMEOUT = 60


@dataclass(frozen=True)
class KeyedGateway:
    """A gateway that needs a key, and one that it knows."""

    url: str
    key: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}


@pytest.fixture(scope="module")
def keyed_gateway(
    live_stack: LiveStack, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[KeyedGateway]:
    folder = tmp_path_factory.mktemp("keyed")
    [port] = free_ports(1)
    key = KeyStore(folder / "api_keys.json").create("schemathesis")
    gateway = KeyedGateway(f"http://127.0.0.1:{port}", key)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("CARID_")},
        "CARID_PORT": str(port),
        "CARID_INFERENCE_URL": live_stack.inference_url,
        "CARID_MANAGEMENT_URL": live_stack.management_url,
        "CARID_KEY_FILE": str(live_stack.key_file),
        "CARID_ACCESS": "key",
        "CARID_API_KEYS_FILE": str(folder / "api_keys.json"),
        "CARID_RATE_PER_MINUTE": "1000000",
    }
    with (folder / "gateway.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway"], cwd=ROOT, env=environment, stdout=log, stderr=log
        )
    try:
        wait_until_ready(gateway, process, folder / "gateway.log")
        yield gateway
        assert "Traceback" not in (folder / "gateway.log").read_text()
    finally:
        process.terminate()
        process.wait(START_TIMEOUT)


def wait_until_ready(gateway: KeyedGateway, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        try:
            if requests.get(f"{gateway.url}/readyz", timeout=5).status_code == 200:
                return
        except requests.ConnectionError:
            pass  # not listening yet
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"the gateway did not start:\n{log.read_text()}", pytrace=False)
        time.sleep(0.1)


# What schemathesis takes for a refusal of bad data, and the one that it does not know: a form with
# 33 photos is too large.
REFUSALS = [*ChecksConfig().negative_data_rejection.expected_statuses, "413"]


def with_keys_needed(description: dict[str, Any]) -> dict[str, Any]:
    """The description without the words that a key can be left out: this gateway needs one."""
    for item in description["paths"].values():
        for operation in item.values():
            if "security" in operation:
                operation["security"].remove({})
    return description


photo_strategies.register()
schema = schemathesis.openapi.from_dict(
    photo_strategies.with_formats(with_keys_needed(yaml.safe_load(DESCRIPTION.read_text()))),
    config=SchemathesisConfig.from_dict(
        {"checks": {"negative_data_rejection": {"expected-statuses": REFUSALS}}}
    ),
)


@schema.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
def test_the_gateway_is_as_it_describes_itself(
    case: schemathesis.Case, keyed_gateway: KeyedGateway
) -> None:
    ask_sensibly(case)
    case.call_and_validate(keyed_gateway.url, headers=keyed_gateway.headers)


def ask_sensibly(case: schemathesis.Case) -> None:
    """Mend what is an error but can't be said in OpenAPI.

    An option that stands in the address and in the body, and a box that is empty or off the photo.
    """
    if not isinstance(case.body, dict):
        return
    for name in case.body.keys() & case.query.keys():
        del case.query[name]
    match case.body.get("box"):
        case [left, top, right, bottom] as box if all(map(is_whole, box)):
            half = photo_strategies.MIN_SIDE // 2
            corners = (left % half, top % half, half + right % half, half + bottom % half)
            case.body = {**case.body, "box": list(corners)}


def is_whole(value: object) -> bool:
    """Whether it is one of JSON's whole numbers from 0, of which 5.0 is one."""
    return type(value) in (int, float) and value >= 0 and value % 1 == 0
