"""Balancers and monitors that ask with HEAD."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from gateway_fixtures import Gateway, StandInTorchServe

from gateway.keys import KeyStore

PATHS = [
    "/",
    "/healthz",
    "/readyz",
    "/v1/labels",
    "/v1/models",
    "/metrics",
    "/openapi.json",
    "/swagger/",
    "/assets/app.js",
]


@pytest.mark.parametrize("path", PATHS)
def test_what_get_answers_is_answered_without_its_body(gateway: Gateway, path: str) -> None:
    got = requests.get(gateway.url + path, timeout=30)
    # On one connection: a body that was sent all the same would be taken for the next answer.
    with requests.Session() as session:
        for _ in range(2):
            head = session.head(gateway.url + path, timeout=30)
            assert head.status_code == got.status_code == 200
            assert head.content == b""
            assert head.headers["Content-Type"] == got.headers["Content-Type"]
            assert head.headers["X-Request-Id"]


def test_a_server_that_is_not_ready_says_so(
    gateway: Gateway, torchserve: StandInTorchServe
) -> None:
    torchserve.workers = ["LOADING"]
    assert requests.head(f"{gateway.url}/readyz", timeout=30).status_code == 503


def test_where_there_is_nothing_to_get_there_is_no_head(gateway: Gateway) -> None:
    refused = requests.head(f"{gateway.url}/v1/identify", timeout=30)
    assert (refused.status_code, refused.headers["Allow"]) == (405, "POST")
    assert requests.head(f"{gateway.url}/nowhere", timeout=30).status_code == 404


def test_it_opens_nothing_that_needs_a_key(
    start_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    keys = tmp_path / "api_keys.json"
    key = KeyStore(keys).create("laptop")
    gateway = start_gateway(access="key", api_keys_file=keys)
    for path in ("/v1/labels", "/v1/models", "/metrics"):
        url = gateway.url + path
        assert requests.head(url, timeout=30).status_code == 401
        assert requests.head(url, headers={"X-API-Key": key}, timeout=30).status_code == 200


def test_the_description_does_not_tell_of_it(gateway: Gateway) -> None:
    paths = requests.get(f"{gateway.url}/openapi.json", timeout=30).json()["paths"]
    assert not any("head" in operations for operations in paths.values())
