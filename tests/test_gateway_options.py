"""The options of a request, wherever they stand: in the address, in the form, in JSON."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest
import requests
from gateway_fixtures import (
    HEATMAP,
    NO_SUCH_VERSION,
    PHOTO,
    Gateway,
    StandInTorchServe,
    assert_error,
    identify,
    identify_json,
    identify_raw,
)
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import InvalidOptionError
from gateway.options import IdentifyOptions


def in_query(gateway: Gateway, **options: object) -> requests.Response:
    return identify(gateway, PHOTO, params=options)


def in_query_of_raw(gateway: Gateway, **options: object) -> requests.Response:
    return identify_raw(gateway, PHOTO, params=options)


def in_form(gateway: Gateway, **options: object) -> requests.Response:
    return identify(gateway, PHOTO, data=options)


def in_json(gateway: Gateway, **options: object) -> requests.Response:
    return identify_json(gateway, {"image": base64.b64encode(PHOTO).decode(), **options})


PLACES = [in_query, in_query_of_raw, in_form, in_json]
AS_TEXT = [in_query, in_form]

Ask = Callable[..., requests.Response]


@pytest.mark.parametrize("ask", PLACES)
class TestEverywhere:
    def test_the_worker_gets_what_was_asked(
        self, gateway: Gateway, torchserve: StandInTorchServe, ask: Ask
    ) -> None:
        explain = True if ask is in_json else "True"
        assert ask(gateway, top_k=2, version="1.0", explain=explain, box="1,2,30,40").ok
        assert ask(gateway).ok
        assert torchserve.asked == [
            {"version": "1.0", "top_k": "2", "explain": True, "box": "1,2,30,40"},
            {"version": None, "top_k": "5", "explain": False, "box": None},
        ]

    def test_a_heatmap_is_there_if_it_was_asked_for(self, gateway: Gateway, ask: Ask) -> None:
        yes, no = (True, False) if ask is in_json else ("true", "false")
        assert ask(gateway, explain=yes).json()["heatmap"] == HEATMAP
        assert "heatmap" not in ask(gateway, explain=no).json()
        assert "heatmap" not in ask(gateway).json()

    def test_another_version_answers(
        self, gateway: Gateway, torchserve: StandInTorchServe, ask: Ask
    ) -> None:
        torchserve.others["1.1"] = ["READY"]
        assert ask(gateway, version="1.1").json()["model_version"] == "1.1"
        assert ask(gateway).json()["model_version"] == "1.0"

    def test_an_unknown_version(self, gateway: Gateway, ask: Ask) -> None:
        message = assert_error(ask(gateway, version="9.9"), 404, "unknown_version")
        assert "'9.9'" in message
        assert "/v1/models" in message

    @pytest.mark.parametrize("version", ["", "../1.0", "1.0/x", "1 0", "a" * 41, "ü", "1.0\n"])
    def test_what_can_be_no_version_never_reaches_torchserve(
        self, gateway: Gateway, torchserve: StandInTorchServe, ask: Ask, version: str
    ) -> None:
        assert "version" in assert_error(ask(gateway, version=version), 422, "invalid_option")
        assert torchserve.photos == []

    @pytest.mark.parametrize(
        ("box", "hint"),
        [
            ("", "left,top,right,bottom"),
            ("1,2,3", "left,top,right,bottom"),
            ("1,2,3,4,5", "left,top,right,bottom"),
            ("-1,2,3,4", "left,top,right,bottom"),
            ("0.5,2,3,4", "left,top,right,bottom"),
            ("1,2,3,9999999999", "left,top,right,bottom"),
            ("١,٢,٣,٤", "left,top,right,bottom"),
            ("30,2,30,40", "left < right"),
            ("1,40,30,2", "top < bottom"),
        ],
    )
    def test_a_box_that_is_none(self, gateway: Gateway, ask: Ask, box: str, hint: str) -> None:
        assert hint in assert_error(ask(gateway, box=box), 422, "invalid_option")


class TestTexts:
    @pytest.mark.parametrize("ask", AS_TEXT)
    @pytest.mark.parametrize("truth", ["yes", "1", "2", "", "null"])
    def test_what_is_neither_true_nor_false(self, gateway: Gateway, ask: Ask, truth: str) -> None:
        message = assert_error(ask(gateway, explain=truth), 422, "invalid_option")
        assert "true or false" in message

    @pytest.mark.parametrize("ask", AS_TEXT)
    @pytest.mark.parametrize("number", ["1_0", "1__0", "_5", "five", ""])
    def test_what_is_no_whole_number(
        self, gateway: Gateway, torchserve: StandInTorchServe, ask: Ask, number: str
    ) -> None:
        message = assert_error(ask(gateway, top_k=number), 422, "invalid_option")
        assert "valid integer" in message
        assert torchserve.photos == []

    @pytest.mark.parametrize(
        "query", ["top_k=0&top_k=3", "top_k=3&top_k=3", "explain=true&explain=", "box=1&box=2"]
    )
    def test_an_option_that_stands_in_the_address_twice(
        self, gateway: Gateway, torchserve: StandInTorchServe, query: str
    ) -> None:
        response = requests.post(f"{gateway.url}/v1/identify?{query}", data=PHOTO, timeout=30)
        assert_error(response, 422, "invalid_option")
        assert torchserve.photos == []

    def test_an_option_that_stands_in_the_form_twice(self, gateway: Gateway) -> None:
        response = identify(gateway, PHOTO, data=[("top_k", "3"), ("top_k", "4")])
        assert "twice" in assert_error(response, 422, "invalid_option")

    def test_each_place_may_hold_another_option(
        self, gateway: Gateway, torchserve: StandInTorchServe
    ) -> None:
        assert identify(gateway, PHOTO, params={"top_k": 3}, data={"explain": "true"}).ok
        assert (torchserve.asked[0]["top_k"], torchserve.asked[0]["explain"]) == ("3", True)


class TestSeveralPhotos:
    def test_each_is_explained(self, gateway: Gateway) -> None:
        results = identify(gateway, PHOTO, PHOTO, params={"explain": "true"}).json()["results"]
        assert [result["answer"]["heatmap"] for result in results] == [HEATMAP] * 2

    def test_an_unknown_version_is_the_whole_requests_error(
        self, gateway: Gateway, torchserve: StandInTorchServe
    ) -> None:
        response = identify(gateway, PHOTO, b"", PHOTO, params={"version": "9.9"})
        assert_error(response, 404, "unknown_version")
        # Whatever becomes of a version while its photos are under way.
        torchserve.failures.append(NO_SUCH_VERSION)
        response = identify(gateway, PHOTO, PHOTO, params={"version": "1.0"})
        assert_error(response, 404, "unknown_version")


class TestBoxes:
    number = st.integers(0, 999_999_999)

    @given(number, number, number, number, st.sampled_from([",", ", ", " ,", "  ,  "]))
    def test_text_and_list_mean_the_same(
        self, left: int, top: int, right: int, bottom: int, comma: str
    ) -> None:
        numbers = [left, top, right, bottom]
        boxes = [
            _box_or_none(IdentifyOptions.from_form, comma.join(map(str, numbers))),
            _box_or_none(IdentifyOptions.from_json, comma.join(map(str, numbers))),
            _box_or_none(IdentifyOptions.from_json, numbers),
        ]
        is_box = left < right and top < bottom
        assert boxes == [f"{left},{top},{right},{bottom}" if is_box else None] * 3

    @given(st.text(max_size=40))
    def test_what_passes_is_what_the_worker_reads(self, text: str) -> None:
        box = _box_or_none(IdentifyOptions.from_form, text)
        if box is not None:
            left, top, right, bottom = map(int, box.split(","))
            assert 0 <= left < right <= 999_999_999
            assert 0 <= top < bottom <= 999_999_999
            assert box.isascii()


def _box_or_none(read: Callable[[dict[str, Any]], IdentifyOptions], value: object) -> str | None:
    try:
        return read({"box": value}).box
    except InvalidOptionError:
        return None
