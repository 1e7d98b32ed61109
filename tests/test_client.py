"""The Python client, against a real gateway."""

from __future__ import annotations

import dataclasses
import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
import urllib3
from gateway_fixtures import (
    BROKEN_PHOTO,
    NO_JSON,
    PHOTO,
    QUEUE_FULL,
    WORKER_DIED,
    Gateway,
    StandInTorchServe,
    serving,
)
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from client import (
    CarIdentifierClient,
    CarIdentifierError,
    RequestRefusedError,
    ServerNotRunningError,
    ServerUnavailableError,
    UnexpectedAnswerError,
)
from client.types import Answer, Canary

NOBODY = "http://127.0.0.1:9"
PROXYS_PAGE = "<html><h1>{}</h1></html>"


@pytest.fixture
def client(gateway: Gateway) -> Iterator[CarIdentifierClient]:
    with CarIdentifierClient(gateway.url) as client:
        yield client


def test_an_answer_is_typed_and_frozen(client: CarIdentifierClient) -> None:
    answer = client.identify(PHOTO)
    assert (answer.make, answer.model, answer.body, answer.year) == ("Audi", "TTS", "Coupe", 2012)
    assert (answer.verdict, answer.confidence, answer.make_confidence) == ("identified", 0.9, 0.95)
    assert answer.predictions[0].label == answer.label
    assert answer.predictions[1].body is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        answer.make = "Opel"  # type: ignore[misc]


def test_a_photo_may_be_a_path_bytes_or_a_file(
    client: CarIdentifierClient, torchserve: StandInTorchServe, tmp_path: Path
) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(PHOTO)
    with path.open("rb") as file:
        for photo in (path, str(path), PHOTO, file, io.BytesIO(PHOTO)):
            assert client.identify(photo).year == 2012
    assert [photo for _, photo in torchserve.photos] == [PHOTO] * 5


def test_top_k_is_passed_on(client: CarIdentifierClient) -> None:
    assert len(client.identify(PHOTO, top_k=1).predictions) == 1


def test_labels(client: CarIdentifierClient) -> None:
    table = client.labels()
    assert table.model_version == "1.0"
    assert [car.class_id for car in table.labels] == [0, 13]
    assert table.labels[0].body is None


def test_ready(client: CarIdentifierClient, torchserve: StandInTorchServe) -> None:
    assert client.ready()
    torchserve.workers = []
    with CarIdentifierClient(NOBODY) as nobody:
        assert not nobody.ready()


def test_not_ready_is_said_at_once(
    client: CarIdentifierClient, torchserve: StandInTorchServe
) -> None:
    torchserve.workers = []
    assert not client.ready()
    assert len(torchserve.describes) == 1, "its 503 is the answer, not a reason to ask again"


def test_a_busy_server_is_asked_again_after_the_time_it_names(
    client: CarIdentifierClient, torchserve: StandInTorchServe
) -> None:
    torchserve.failures.append(QUEUE_FULL)
    start = time.monotonic()
    assert client.identify(PHOTO).make == "Audi"
    assert time.monotonic() - start >= 1, "Retry-After said one second"
    assert len(torchserve.photos) == 2


def test_a_server_that_stays_busy_is_given_up(
    gateway: Gateway, torchserve: StandInTorchServe
) -> None:
    torchserve.failures.extend([QUEUE_FULL] * 3)
    with (
        CarIdentifierClient(gateway.url, retries=1) as client,
        pytest.raises(ServerUnavailableError, match="Try again") as caught,
    ):
        client.identify(PHOTO)
    assert (caught.value.status, caught.value.code) == (503, "server_busy")
    assert len(torchserve.photos) == 2


def test_a_refused_photo_is_not_sent_again(
    client: CarIdentifierClient, torchserve: StandInTorchServe
) -> None:
    with pytest.raises(RequestRefusedError, match="damaged") as caught:
        client.identify(BROKEN_PHOTO)
    assert (caught.value.status, caught.value.code) == (422, "image_unreadable")
    assert caught.value.request_id
    assert len(torchserve.photos) == 1


def test_a_bad_option_is_refused(client: CarIdentifierClient) -> None:
    with pytest.raises(RequestRefusedError, match="top_k"):
        client.identify(PHOTO, top_k=50)


def test_a_bug_in_the_server_is_told_with_its_request_id(
    client: CarIdentifierClient, torchserve: StandInTorchServe
) -> None:
    torchserve.failures.append(NO_JSON)
    with pytest.raises(ServerUnavailableError, match="report") as caught:
        client.identify(PHOTO)
    assert caught.value.status == 500
    assert caught.value.request_id


def test_a_worker_that_comes_back_is_waited_for(
    gateway: Gateway, torchserve: StandInTorchServe
) -> None:
    torchserve.failures.append(WORKER_DIED)
    with CarIdentifierClient(gateway.url) as client:
        assert client.identify(PHOTO).make == "Audi"


def test_no_server_there_says_how_to_start_one(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    with (
        CarIdentifierClient(NOBODY) as client,
        pytest.raises(ServerNotRunningError, match="make serve"),
    ):
        client.identify(PHOTO)
    assert waits == [], "waiting for a server that is not there helps nobody"


def test_a_server_that_does_not_answer(gateway: Gateway, torchserve: StandInTorchServe) -> None:
    with (
        torchserve.holding(),
        CarIdentifierClient(gateway.url, timeout=0.3) as client,
        pytest.raises(ServerNotRunningError, match=r"0\.3 s"),
    ):
        client.identify(PHOTO)


def test_a_server_that_takes_no_connection_is_told_from_one_that_is_slow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nobody_there(*_: object, **__: object) -> None:
        raise TimeoutError("timed out")

    monkeypatch.setattr(urllib3.util.connection, "create_connection", nobody_there)
    with (
        CarIdentifierClient(NOBODY, timeout=60) as client,
        pytest.raises(ServerNotRunningError, match="takes a connection within 5 s"),
    ):
        client.identify(PHOTO)


def test_a_canarys_failures_are_told(start_gateway: Callable[..., Gateway], tmp_path: Path) -> None:
    file = tmp_path / "canary.json"
    file.write_text('{"version": "9.9", "share": 1}')  # no such version: the default one answers
    gateway = start_gateway(canary_file=file)
    with CarIdentifierClient(gateway.url) as client:
        assert client.identify(PHOTO).make == "Audi"
        assert client.models().canary == Canary("9.9", 1.0, compared=0, agreed=0, failed=1)


def test_something_else_on_that_port() -> None:
    async def hello(_: object) -> PlainTextResponse:
        return PlainTextResponse("Hello, I am a printer.")

    app = Starlette()
    app.add_route("/v1/labels", hello)
    with (
        serving(app) as url,
        CarIdentifierClient(url) as client,
        pytest.raises(UnexpectedAnswerError, match="Is the address right"),
    ):
        client.labels()


@contextmanager
def proxy(*answers: Response) -> Iterator[CarIdentifierClient]:
    """A client of what gives these answers, one after the other; not repeating any call."""
    coming = iter(answers)

    async def answer(_: Request) -> Response:
        return next(coming)

    app = Starlette()
    app.add_route("/v1/{path}", answer, ["GET", "POST"])
    with serving(app) as url, CarIdentifierClient(url, retries=0) as client:
        yield client


@pytest.mark.parametrize("status", [500, 502, 503, 504, 520])
@pytest.mark.parametrize("kind", ["page", "json"])
def test_a_proxys_failure_is_one_that_passes(status: int, kind: str) -> None:
    page = HTMLResponse(PROXYS_PAGE.format(status), status)
    own_shape = JSONResponse({"message": "failure"}, status)
    with (
        proxy(page if kind == "page" else own_shape) as client,
        pytest.raises(ServerUnavailableError, match=f"HTTP {status} without a reason") as caught,
    ):
        client.identify(PHOTO)
    assert (caught.value.status, caught.value.code) == (status, "proxy_error")
    assert caught.value.request_id is None


def test_a_photo_that_a_proxy_finds_too_large_is_refused() -> None:
    with (
        proxy(HTMLResponse(PROXYS_PAGE.format(413), 413)) as client,
        pytest.raises(RequestRefusedError, match="Send a smaller photo") as caught,
    ):
        client.identify(PHOTO)
    assert (caught.value.status, caught.value.code) == (413, "proxy_error")


@pytest.mark.parametrize("status", [200, 401, 404])
def test_another_page_is_no_car_identifiers(status: int) -> None:
    with (
        proxy(HTMLResponse(PROXYS_PAGE.format(status), status)) as client,
        pytest.raises(UnexpectedAnswerError, match="Is the address right"),
    ):
        client.identify(PHOTO)


def test_a_server_that_restarts_behind_a_proxy_is_asked_again(gateway: Gateway) -> None:
    answer = JSONResponse(requests.get(f"{gateway.url}/v1/labels", timeout=30).json())
    with (
        proxy(HTMLResponse(PROXYS_PAGE.format(502), 502), answer) as impatient,
        CarIdentifierClient(impatient.url, retries=1) as client,
    ):
        assert client.labels().model_version == "1.0"


@pytest.mark.parametrize("written", ["{}/", "{}", "scheme-less"])
def test_an_address_may_be_written_loosely(gateway: Gateway, written: str) -> None:
    url = (
        gateway.url.removeprefix("http://")
        if written == "scheme-less"
        else written.format(gateway.url)
    )
    with CarIdentifierClient(url) as client:
        assert client.labels().labels


def test_an_impossible_address_is_no_traceback() -> None:
    with CarIdentifierClient("http://[oops") as client, pytest.raises(CarIdentifierError):
        client.labels()


def test_a_proxy_from_the_environment_is_not_asked_about_loopback(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", NOBODY)
    monkeypatch.setenv("http_proxy", NOBODY)
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    with CarIdentifierClient(gateway.url) as client:
        assert client.identify(PHOTO).make == "Audi"


def test_fields_of_a_newer_server_do_no_harm(client: CarIdentifierClient) -> None:
    data = dataclasses.asdict(client.identify(PHOTO))
    assert Answer.from_json({**data, "sketch": "…"}) == Answer.from_json(data)
