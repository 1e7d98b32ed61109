"""Who may call the gateway: seen from outside, through real sockets."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import requests
from gateway_fixtures import (
    JPEG,
    PHOTO,
    Gateway,
    StandInTorchServe,
    assert_error,
    identify,
    identify_raw,
)
from public_gateway import (
    ROOT,
    PublicGateway,
    as_gateway,
    peak_memory,
    public_gateway,
    request_head,
    talk,
)

from gateway.access import AccessMode, access_mode
from gateway.keys import KeyStore
from gateway.settings import MEGABYTE, Settings


class TestFirstStart:
    def test_the_first_key_is_printed_once_and_opens(self, public: PublicGateway) -> None:
        assert public.log.read_text().count("carid_") == 1
        headers = {"Authorization": f"Bearer {public.first_key}"}
        assert identify_raw(as_gateway(public), PHOTO, headers={**JPEG, **headers}).ok

    def test_a_second_start_makes_none(self, torchserve: StandInTorchServe, tmp_path: Path) -> None:
        KeyStore(tmp_path / "api_keys.json").create("own")
        with public_gateway(torchserve, tmp_path) as second:
            assert second.first_key == ""
            assert [key.name for key in second.store.list()] == ["own"]

    def test_a_place_that_cannot_be_written_stops_the_start(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        environment = {
            "CARID_HOST": "0.0.0.0",
            "CARID_API_KEYS_FILE": str(tmp_path / "file" / "api_keys.json"),
        }
        done = subprocess.run(
            [sys.executable, "-m", "gateway"],
            cwd=ROOT,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 1
        assert "can't be written" in done.stderr
        assert "Traceback" not in done.stderr


class TestWithoutAKey:
    @pytest.mark.parametrize(
        "path",
        ["/", "/healthz", "/readyz", "/openapi.json", "/swagger/", "/swagger/start.js",
         "/swagger/assets/swagger-ui.css", "/cars/v1/get_car_details"],
    )  # fmt: skip
    def test_what_anyone_may_see(self, public: PublicGateway, path: str) -> None:
        assert requests.get(public.url + path, timeout=30).status_code == 200

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("GET", "/v1/labels"),
            ("GET", "/v1/models"),
            ("GET", "/metrics"),
            ("POST", "/v1/identify"),
            ("POST", "/cars/v1/get_car_details"),
            ("POST", "/healthz"),
            ("OPTIONS", "/v1/identify"),
            ("GET", "/nowhere"),
            ("GET", "//v1/labels"),
            # TorchServe's own, inference and management.
            ("POST", "/predictions/car_identifier"),
            ("GET", "/models"),
            ("POST", "/models?url=car_identifier.mar"),
            ("DELETE", "/models/car_identifier"),
            ("PUT", "/models/car_identifier/1.0/set-default"),
            ("GET", "/token?type=management"),
        ],
    )
    def test_all_else_is_refused(self, public: PublicGateway, method: str, path: str) -> None:
        response = requests.request(method, public.url + path, timeout=30)
        message = assert_error(response, 401, "unauthorized")
        assert "X-API-Key" in message
        assert response.headers["WWW-Authenticate"] == "Bearer"

    def test_the_description_tells_what_needs_one(self, public: PublicGateway) -> None:
        description = requests.get(f"{public.url}/openapi.json", timeout=30).json()
        assert set(description["components"]["securitySchemes"]) == {"bearer", "api_key"}
        told = {
            (method, path): operation
            for path, operations in description["paths"].items()
            for method, operation in operations.items()
        }
        assert len(told) > 6
        for (method, path), operation in told.items():
            status = requests.request(method, public.url + path, timeout=30).status_code
            assert (status == 401) == ("401" in operation["responses"]), path
            assert (status == 401) == ("429" in operation["responses"]), path
            assert (status == 401) == ("security" in operation), path

    def test_who_is_refused_cannot_go_on_sending(self, public: PublicGateway) -> None:
        start = time.monotonic()
        with socket.create_connection(public.address, timeout=10) as connection:
            connection.sendall(request_head(10**12))
            answer = connection.recv(10_000)
            assert answer.startswith(b"HTTP/1.1 401 ")
            assert b"connection: close" in answer.lower()
            with suppress(ConnectionError):  # reset, or a broken pipe
                while time.monotonic() - start < 10:
                    connection.sendall(bytes(100_000))
        assert time.monotonic() - start < 10

    def test_who_is_refused_late_hears_why(self, public: PublicGateway) -> None:
        body = bytes(5 * MEGABYTE)
        with socket.create_connection(public.address, timeout=10) as connection:
            connection.sendall(request_head(len(body)))
            time.sleep(0.5)
            connection.sendall(body)
            assert connection.recv(10_000).startswith(b"HTTP/1.1 401 ")

    def test_a_path_cannot_be_talked_into_being_open(self, public: PublicGateway) -> None:
        for path in ("/assets/../v1/labels", "/swagger/%2e%2e/v1/labels", "/assets%2f../v1/labels"):
            # requests would tidy the path up.
            answer = talk(public, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 404 "), answer

    @pytest.mark.parametrize("path", ["/models", "/token", "/predictions/car_identifier"])
    def test_a_key_opens_nothing_of_torchserves(
        self, public: PublicGateway, key: dict[str, str], path: str
    ) -> None:
        for method in ("GET", "POST", "PUT", "DELETE"):
            response = requests.request(method, public.url + path, headers=key, timeout=30)
            assert_error(response, 404, "not_found")

    def test_30_mb_are_refused_before_they_are_sent(self, public: PublicGateway) -> None:
        with socket.create_connection(public.address, timeout=10) as connection:
            connection.sendall(request_head(30 * MEGABYTE))
            assert connection.recv(1000).startswith(b"HTTP/1.1 401 ")

    def test_30_mb_that_are_sent_all_the_same_are_not_kept(self, public: PublicGateway) -> None:
        before = peak_memory(public.pid)
        for _ in range(3):
            response = identify_raw(as_gateway(public), bytes(30 * MEGABYTE))
            assert_error(response, 401, "unauthorized")
        assert peak_memory(public.pid) - before < 10 * MEGABYTE


class TestKeys:
    @pytest.mark.parametrize("scheme", ["Bearer {}", "bearer {}", "Bearer  {} "])
    def test_as_authorization(
        self, public: PublicGateway, key: dict[str, str], scheme: str
    ) -> None:
        headers = {"Authorization": scheme.format(key["X-API-Key"])}
        assert requests.get(f"{public.url}/v1/models", headers=headers, timeout=30).ok

    @pytest.mark.parametrize(
        "headers",
        [
            {"X-API-Key": "carid_wrong"},
            {"X-API-Key": ""},
            {"X-API-Key": "naïve".encode("latin-1")},
            {"Authorization": "Bearer"},
            {"Authorization": "Bearer carid_wrong"},
            {"Authorization": "Basic dXNlcjpwYXNzd29yZA=="},
        ],
        ids=str,
    )
    def test_wrong_ones(self, public: PublicGateway, headers: dict[str, str]) -> None:
        response = requests.get(f"{public.url}/v1/labels", headers=headers, timeout=30)
        assert_error(response, 401, "unauthorized")

    def test_a_wrong_one_is_refused_where_none_is_needed(
        self, gateway: Gateway, torchserve: StandInTorchServe
    ) -> None:
        assert identify(gateway, PHOTO).ok
        response = identify(gateway, PHOTO, headers={"X-API-Key": "carid_wrong"})
        assert "mistyped or revoked" in assert_error(response, 401, "unauthorized")
        assert len(torchserve.photos) == 1

    def test_a_revoked_one_is_refused_at_once(self, public: PublicGateway) -> None:
        headers = {**JPEG, "X-API-Key": public.store.create("short-lived")}
        assert identify_raw(as_gateway(public), PHOTO, headers=headers).ok
        public.store.revoke("short-lived")
        response = identify_raw(as_gateway(public), PHOTO, headers=headers)
        assert_error(response, 401, "unauthorized")

    def test_the_log_has_the_name_and_not_the_key(
        self, public: PublicGateway, key: dict[str, str]
    ) -> None:
        requests.get(f"{public.url}/v1/labels", headers=key, timeout=30)
        deadline = time.monotonic() + 10  # the line is written when the answer has left
        while "test_the_log_has_the_name_and_not_the_key" not in public.log.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert key["X-API-Key"] not in public.log.read_text()

    def test_a_path_forges_no_line_of_the_log(self, public: PublicGateway) -> None:
        requests.get(f"{public.url}/x%0aforged%20line", timeout=30)
        deadline = time.monotonic() + 10
        while "/x%0aforged%20line 401" not in public.log.read_text().lower():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def test_a_broken_key_file_lets_nobody_in(
        self, start_gateway: Callable[..., Gateway], tmp_path: Path
    ) -> None:
        file = tmp_path / "api_keys.json"
        secret = KeyStore(file).create("laptop")
        gateway = start_gateway(access="key", api_keys_file=file)
        file.write_text("{")
        response = identify(gateway, PHOTO, headers={"X-API-Key": secret})
        assert str(file) not in assert_error(response, 500, "internal_error")


class TestModes:
    @pytest.mark.parametrize(
        ("host", "mode"),
        [
            ("127.0.0.1", AccessMode.OPEN),
            ("127.1.2.3", AccessMode.OPEN),
            ("::1", AccessMode.OPEN),
            ("localhost", AccessMode.OPEN),
            ("0.0.0.0", AccessMode.KEY),
            ("::", AccessMode.KEY),
            ("", AccessMode.KEY),
            ("192.168.1.5", AccessMode.KEY),
            ("cars.example.org", AccessMode.KEY),
        ],
    )
    def test_auto_needs_keys_where_others_can_reach_it(self, host: str, mode: AccessMode) -> None:
        assert access_mode(Settings(host=host)) is mode

    def test_they_can_be_chosen(self) -> None:
        assert access_mode(Settings(access="key")) is AccessMode.KEY
        assert access_mode(Settings(access="anonymous", host="::")) is AccessMode.ANONYMOUS

    def test_on_loopback_nobody_is_counted(self, start_gateway: Callable[..., Gateway]) -> None:
        gateway = start_gateway(anonymous_per_minute=1, rate_per_minute=1)
        assert all(identify(gateway, PHOTO).ok for _ in range(5))

    def test_anonymous_callers_have_the_low_limit_and_keys_theirs(
        self, start_gateway: Callable[..., Gateway], tmp_path: Path
    ) -> None:
        file = tmp_path / "api_keys.json"
        headers = {"X-API-Key": KeyStore(file).create("laptop")}
        gateway = start_gateway(access="anonymous", anonymous_per_minute=2, api_keys_file=file)
        assert [identify(gateway, PHOTO).status_code for _ in range(3)] == [200, 200, 429]
        assert all(identify(gateway, PHOTO, headers=headers).ok for _ in range(3))
        wrong = {"X-API-Key": "carid_wrong"}
        assert_error(identify(gateway, PHOTO, headers=wrong), 401, "unauthorized")

    def test_open_paths_cost_nothing(self, start_gateway: Callable[..., Gateway]) -> None:
        gateway = start_gateway(access="anonymous", anonymous_per_minute=1)
        for _ in range(5):
            assert requests.get(f"{gateway.url}/readyz", timeout=30).ok
        assert identify(gateway, PHOTO).ok

    def test_addresses_behind_a_trusted_proxy_are_told_apart(
        self, start_gateway: Callable[..., Gateway]
    ) -> None:
        gateway = start_gateway(access="anonymous", anonymous_per_minute=1)
        statuses = [
            identify(gateway, PHOTO, headers={"X-Forwarded-For": address}).status_code
            for address in ("203.0.113.1", "203.0.113.2", "203.0.113.1")
        ]
        assert statuses == [200, 200, 429]

    def test_nobody_else_chooses_the_address_he_is_counted_by(
        self, torchserve: StandInTorchServe, tmp_path: Path
    ) -> None:
        settings = {
            "CARID_ACCESS": "anonymous",
            "CARID_ANONYMOUS_PER_MINUTE": "1",
            "CARID_TRUSTED_PROXIES": "192.0.2.1",
        }
        with public_gateway(torchserve, tmp_path, **settings) as public:
            assert public.first_key == "", "nobody needs one"
            statuses = [
                identify(
                    as_gateway(public), PHOTO, headers={"X-Forwarded-For": address}
                ).status_code
                for address in ("203.0.113.1", "203.0.113.2")
            ]
        assert statuses == [200, 429]
