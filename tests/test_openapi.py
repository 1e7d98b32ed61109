"""The description of the public API: checked in, valid, and true.

Random requests are test_schemathesis_gateway.py's; TorchServe's description has
test_openapi_torchserve.py.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from gateway_fixtures import BROKEN_PHOTO, PHOTO, Gateway
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from gateway.errors import (
    GatewayError,
    HeadTooLargeError,
    MethodNotAllowedError,
    NotFoundError,
    PhotoRefusedError,
    RequestUnreadableError,
)
from gateway.openapi import openapi_yaml

# There is none, or not yet, when these are answered.
NO_OPERATIONS = {
    HeadTooLargeError,
    MethodNotAllowedError,
    NotFoundError,
    RequestUnreadableError,
}
FOLDER = Path(__file__).resolve().parent.parent / "openapi"
CHECKED_IN = FOLDER / "car-identifier.yaml"


@pytest.fixture(scope="module")
def description() -> dict[str, Any]:
    return yaml.safe_load(openapi_yaml())


def test_the_checked_in_file_is_what_the_gateway_says() -> None:
    assert CHECKED_IN.read_text() == openapi_yaml(), (
        "run: python -m gateway.openapi > openapi/car-identifier.yaml"
    )


@pytest.mark.parametrize("file", ["car-identifier.yaml", "torchserve.yaml"])
def test_it_is_valid_openapi(file: str) -> None:
    OpenAPIV31SpecValidator(yaml.safe_load((FOLDER / file).read_text())).validate()


def test_an_operators_settings_do_not_change_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = openapi_yaml()
    monkeypatch.setenv("CARID_PORT", "1234")
    assert openapi_yaml() == before


def test_every_error_is_described_and_in_the_gateways_page(description: dict[str, Any]) -> None:
    page = (FOLDER.parent / "docs" / "gateway.md").read_text()
    rows = dict(re.findall(r"^\| ([0-9, ]+) \| (`.*) \|$", page, re.MULTILINE))
    described = yaml.dump(description)
    for error in set(GatewayError.__subclasses__()) - {PhotoRefusedError}:
        [row] = [text for statuses, text in rows.items() if str(int(error.status)) in statuses]
        assert f"`{error.code}`" in row
        if error not in NO_OPERATIONS:
            assert f"{error.code}:" in described


def test_every_example_keeps_to_its_schema(description: dict[str, Any]) -> None:
    examples = 0
    for name, schema in description["components"]["schemas"].items():
        for example in schema.get("examples", ()):
            validator(description, f"#/components/schemas/{name}").validate(example)
            examples += 1
    for operation in (op for path in description["paths"].values() for op in path.values()):
        for response in operation["responses"].values():
            content = response.get("content", {}).get("application/json", {})
            for example in content.get("examples", {}).values():
                validator(description, content["schema"]["$ref"]).validate(example["value"])
                examples += 1
    assert examples > 10


@pytest.mark.parametrize(
    ("method", "path", "request_parts", "status"),
    [
        ("POST", "/v1/identify", {"files": {"file": PHOTO}}, "200"),
        ("POST", "/v1/identify", {"files": {"a": PHOTO, "b": BROKEN_PHOTO}}, "200"),
        ("POST", "/v1/identify", {"files": {"file": BROKEN_PHOTO}}, "422"),
        ("POST", "/v1/identify", {}, "400"),
        ("POST", "/v1/identify", {"json": {}}, "400"),
        (
            "POST",
            "/v1/identify",
            {"data": "a", "headers": {"Content-Type": "text/plain"}},
            "415",
        ),
        ("POST", "/v1/identify", {"files": {"file": PHOTO}, "params": {"version": "9.9"}}, "404"),
        ("POST", "/v1/identify", {"files": {"file": PHOTO}, "params": {"explain": "true"}}, "200"),
        ("POST", "/cars/v1/get_car_details", {"files": {"file": PHOTO}}, "200"),
        ("GET", "/v1/models", {}, "200"),
        ("POST", "/v1/identify", {"params": {"top_k": 99}}, "422"),
        ("GET", "/v1/labels", {}, "200"),
        ("GET", "/healthz", {}, "200"),
        ("GET", "/readyz", {}, "200"),
    ],
    ids=str,
)
def test_responses_keep_to_it(
    gateway: Gateway,
    description: dict[str, Any],
    method: str,
    path: str,
    request_parts: dict[str, Any],
    status: str,
) -> None:
    response = requests.request(method, gateway.url + path, timeout=30, **request_parts)
    assert str(response.status_code) == status
    described = description["paths"][path][method.lower()]["responses"][status]
    schema = described["content"]["application/json"]["schema"]
    Draft202012Validator({**schema, "components": description["components"]}).validate(
        response.json()
    )


def validator(description: dict[str, Any], reference: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": reference, "components": description["components"]})
