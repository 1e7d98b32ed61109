"""What else the gateway answers: models, the predecessor's address, and what it must not."""

from __future__ import annotations

from collections.abc import Callable
from html.parser import HTMLParser
from urllib.parse import urljoin

import pytest
import requests
from gateway_fixtures import (
    BROKEN_PHOTO,
    CAR,
    PHOTO,
    Gateway,
    StandInTorchServe,
    assert_error,
    identify,
)


class TestModels:
    def test_all_versions_are_listed_the_default_first(
        self, gateway: Gateway, torchserve: StandInTorchServe
    ) -> None:
        torchserve.version = "1.1"
        torchserve.others = {"1.0": ["READY", "UNLOADED"], "1.2": []}
        assert requests.get(f"{gateway.url}/v1/models", timeout=30).json() == {
            "name": "car_identifier",
            "default_version": "1.1",
            "versions": [
                {"version": "1.1", "default": True, "ready_workers": 1, "workers": 1},
                {"version": "1.0", "default": False, "ready_workers": 1, "workers": 2},
                {"version": "1.2", "default": False, "ready_workers": 0, "workers": 0},
            ],
            "canary": None,
        }

    def test_they_cannot_be_changed(self, gateway: Gateway) -> None:
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            response = requests.request(method, f"{gateway.url}/v1/models", timeout=30)
            assert_error(response, 405, "method_not_allowed")

    def test_without_torchserve(self, start_gateway: Callable[..., Gateway]) -> None:
        gateway = start_gateway(management_url="http://127.0.0.1:9")
        response = requests.get(f"{gateway.url}/v1/models", timeout=30)
        assert_error(response, 503, "model_unavailable")


ADDRESS = "/cars/v1/get_car_details"


class TestThePredecessorsAddress:
    def test_it_answers_as_it_did_and_more(self, gateway: Gateway) -> None:
        response = requests.post(gateway.url + ADDRESS, files={"file": PHOTO}, timeout=30)
        answer = response.json()
        assert (answer["class"], answer["car_details"]) == (13, CAR["label"])
        headers = {"X-Request-Id": answer["request_id"]}
        today = identify(gateway, PHOTO, headers=headers).json()
        assert answer == {**today, "class": 13, "car_details": CAR["label"]}

    def test_its_form_works(self, gateway: Gateway) -> None:
        page = requests.get(gateway.url + ADDRESS, timeout=30)
        assert page.headers["Content-Type"] == "text/html; charset=utf-8"
        form = _Form()
        form.feed(page.text)
        assert form.attributes["method"] == "post"
        assert form.attributes["enctype"] == "multipart/form-data"
        assert form.file_field == "file"
        # A form without an action posts to where it came from.
        assert "action" not in form.attributes
        files = {form.file_field: ("car.jpg", PHOTO)}
        assert requests.post(page.url, files=files, timeout=30).json()["class"] == 13
        for link in form.links:
            assert requests.get(urljoin(page.url, link), timeout=30).status_code == 200

    def test_options_count_here_too(self, gateway: Gateway) -> None:
        response = requests.post(
            gateway.url + ADDRESS, files={"file": PHOTO}, data={"explain": "true"}, timeout=30
        )
        assert "heatmap" in response.json()

    def test_errors_are_the_same(self, gateway: Gateway) -> None:
        def post(**request: object) -> requests.Response:
            return requests.post(gateway.url + ADDRESS, timeout=30, **request)

        assert_error(post(), 400, "image_missing")
        assert_error(post(files={"file": BROKEN_PHOTO}), 422, "image_unreadable")
        assert_error(post(files={"file": PHOTO}, params={"top_k": 0}), 422, "invalid_option")
        several = post(files=[("file", ("a", PHOTO)), ("file", ("b", PHOTO))])
        assert "/v1/identify" in assert_error(several, 413, "too_many_photos")


class _Form(HTMLParser):
    """What a browser would see of a page's form."""

    def __init__(self) -> None:
        super().__init__()
        self.attributes: dict[str, str | None] = {}
        self.file_field = ""
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag == "form":
            self.attributes = attributes
        elif tag == "input" and attributes["type"] == "file":
            self.file_field = attributes["name"] or ""
        elif tag == "a":
            self.links.append(attributes["href"] or "")


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS"])
@pytest.mark.parametrize(
    "path",
    [
        "/models",
        "/models/car_identifier",
        "/models/car_identifier/1.0/set-default",
        "/predictions/car_identifier",
        "/predictions/car_identifier/1.0",
        "/explanations/car_identifier",
        "/v2/models/car_identifier/infer",
        "/ping",
        "/token",
        "/token?type=management",
        "/api-description",
        "/workflows",
        "/v1/../models",
        "/v1/models/../../token",
        "//models",
    ],
)
def test_nothing_of_torchserve_shows_through(
    gateway: Gateway, torchserve: StandInTorchServe, method: str, path: str
) -> None:
    request = requests.Request(method, gateway.url).prepare()
    request.url = gateway.url + path  # as it stands, not tidied up
    with requests.Session() as session:
        response = session.send(request, timeout=30)
    assert_error(response, 404, "not_found")
    assert (torchserve.photos, torchserve.describes, torchserve.renewals) == ([], [], 0)
