"""What responses tell browsers, and that pages work under it in a real one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from gateway_fixtures import PHOTO, Gateway, assert_error, identify
from playwright.sync_api import Page, expect
from pydantic import ValidationError

from gateway.keys import KeyStore
from gateway.settings import Settings

SITE = "https://cars.example.org"
STATUS = "#operations-models-models .live-responses-table .response .response-col_status"
EVERYWHERE = [
    ("GET", "/"),
    ("GET", "/swagger/"),
    ("GET", "/openapi.json"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
    ("GET", "/v1/labels"),
    ("POST", "/v1/identify"),
    ("GET", "/cars/v1/get_car_details"),
    ("GET", "/nowhere"),
]


class TestSecurity:
    @pytest.mark.parametrize(("method", "path"), EVERYWHERE)
    def test_headers_are_everywhere(self, gateway: Gateway, method: str, path: str) -> None:
        headers = requests.request(method, gateway.url + path, timeout=30).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert "camera=(self)" in headers["Permissions-Policy"]
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["X-Request-Id"]

    def test_even_where_something_broke(self, gateway: Gateway) -> None:
        gateway.app.state.readiness = None
        response = requests.get(f"{gateway.url}/readyz", timeout=30)
        assert_error(response, 500, "internal_error")
        assert response.headers["X-Content-Type-Options"] == "nosniff"

    @pytest.mark.parametrize(
        "path", ["/v1/labels", "/v1/models", "/readyz", "/metrics", "/nowhere", "/openapi.json"]
    )
    def test_answers_are_kept_by_nobody(self, gateway: Gateway, path: str) -> None:
        response = requests.get(gateway.url + path, timeout=30)
        assert response.headers["Cache-Control"] == "no-store"
        assert identify(gateway, PHOTO).headers["Cache-Control"] == "no-store"

    def test_what_pages_are_made_of_may_be_kept(self, gateway: Gateway) -> None:
        for path in ("/", "/swagger/", "/swagger/assets/swagger-ui.css"):
            response = requests.get(gateway.url + path, timeout=30)
            assert response.headers.get("Cache-Control") != "no-store"


class TestOtherSites:
    @pytest.fixture
    def gateway(self, start_gateway: Callable[..., Gateway], tmp_path: Path) -> Gateway:
        """It needs keys, and lets one site's scripts in."""
        self.keys = KeyStore(tmp_path / "api_keys.json")
        return start_gateway(access="key", api_keys_file=self.keys.path, cors_origins=(SITE,))

    def test_a_preflight_needs_no_key(self, gateway: Gateway) -> None:
        asked = {
            "Origin": SITE,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type,x-api-key,x-request-id",
        }
        response = requests.options(f"{gateway.url}/v1/identify", headers=asked, timeout=30)
        assert response.status_code == 200
        assert response.headers["Access-Control-Allow-Origin"] == SITE
        assert "POST" in response.headers["Access-Control-Allow-Methods"]
        assert response.headers["X-Request-Id"]

    def test_scripts_may_read_answers_and_errors(self, gateway: Gateway) -> None:
        headers = {"Origin": SITE, "X-API-Key": self.keys.create("slow", per_minute=1)}
        responses = [
            identify(gateway, PHOTO, headers=headers),
            identify(gateway, PHOTO, headers=headers),
            identify(gateway, PHOTO, headers={"Origin": SITE}),
        ]
        assert [response.status_code for response in responses] == [200, 429, 401]
        for response in responses:
            assert response.headers["Access-Control-Allow-Origin"] == SITE
            exposed = response.headers["Access-Control-Expose-Headers"].split(", ")
            assert {"X-Request-Id", "Retry-After"} <= set(exposed)
            assert response.headers["X-Request-Id"]
        assert int(responses[1].headers["Retry-After"]) > 0

    def test_also_what_went_wrong_here(self, gateway: Gateway) -> None:
        gateway.app.state.readiness = None
        response = requests.get(f"{gateway.url}/readyz", headers={"Origin": SITE}, timeout=30)
        assert_error(response, 500, "internal_error")
        assert response.headers["Access-Control-Allow-Origin"] == SITE

    def test_another_site_may_not(self, gateway: Gateway) -> None:
        response = requests.get(
            f"{gateway.url}/readyz", headers={"Origin": "https://evil.example"}, timeout=30
        )
        assert "Access-Control-Allow-Origin" not in response.headers

    def test_nobody_may_by_default(self, start_gateway: Callable[..., Gateway]) -> None:
        response = requests.get(
            f"{start_gateway().url}/readyz", headers={"Origin": SITE}, timeout=30
        )
        assert not any(name.startswith("Access-Control") for name in response.headers)

    def test_sites_are_listed_with_commas(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CARID_CORS_ORIGINS", f"{SITE}, http://localhost:3000")
        assert Settings().cors_origins == (SITE, "http://localhost:3000")

    @pytest.mark.parametrize("wrong", [f"{SITE}/", "cars.example.org", f"{SITE}/page", "null"])
    def test_what_no_browser_sends_is_named(self, wrong: str) -> None:
        with pytest.raises(ValidationError, match="no origin"):
            Settings(cors_origins=wrong)


class TestSwaggerInABrowser:
    def test_it_shows_the_api_and_sends_requests(
        self,
        open_page: Callable[..., Page],
        start_gateway: Callable[..., Gateway],
        tmp_path: Path,
    ) -> None:
        """That the browser does not complain of the policy is the fixture's to see."""
        file = tmp_path / "api_keys.json"
        key = KeyStore(file).create("laptop")
        gateway = start_gateway(access="key", api_keys_file=file)
        page = open_page(gateway.url)
        page.goto(f"{gateway.url}/swagger/")
        expect(page.locator("#operations-identify-identify")).to_be_visible()
        # A request without a key is told so, and one with it is answered.
        page.click("#operations-models-models .opblock-summary-control")
        page.click("#operations-models-models button.execute")
        expect(page.locator(STATUS)).to_contain_text("401")
        page.click("button.authorize")
        page.fill("input[aria-label=auth-bearer-value]", key)
        page.click(".auth-container:has(input) button.authorize >> nth=0")
        page.click("button.btn-done")
        page.click("#operations-models-models button.execute")
        expect(page.locator(STATUS)).to_contain_text("200")
