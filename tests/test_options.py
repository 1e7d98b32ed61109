"""What may be asked of a photo, and how it is asked in text."""

from __future__ import annotations

import pytest

from handler.errors import InvalidOptionError
from handler.options import OPTION_NAMES, Options
from handler.region import Box


@pytest.mark.parametrize("top_k", ["0", "21", "-1", "3.5", "abc", "", "1e1", "９", "9" * 5000])
def test_an_impossible_top_k_is_an_invalid_option(top_k: str) -> None:
    with pytest.raises(InvalidOptionError, match="top_k") as error:
        Options.parse(top_k=top_k)
    assert (error.value.code, error.value.status) == ("invalid_option", 422)
    assert len(error.value.message) < 200


@pytest.mark.parametrize("request_id", ["", "a b", "a\nb", "x" * 129, '"', "ä"])
def test_an_impossible_request_id_is_an_invalid_option(request_id: str) -> None:
    with pytest.raises(InvalidOptionError, match="request_id"):
        Options.parse(request_id=request_id)


@pytest.mark.parametrize(
    "box",
    [
        *("", "1,2,3", "1,2,3,4,5", "1,2,3,", "a,b,c,d", "1 2 3 4", "1;2;3;4", "[1,2,3,4]"),
        *("1.5,2,3,4", "1e1,2,30,40", "-5,0,10,10", "+5,0,10,10", "１,2,3,4", "0,0,inf,9"),
        f"0,0,{'9' * 5000},9",
    ],
)
def test_a_box_that_is_not_four_whole_numbers_is_told_how_to_be_one(box: str) -> None:
    with pytest.raises(InvalidOptionError, match="for example 120,80,900,560") as error:
        Options.parse(box=box)
    assert len(error.value.message) < 200


@pytest.mark.parametrize("box", ["5,0,5,9", "9,0,5,9", "0,9,5,9", "0,9,5,3", "0,0,0,0"])
def test_an_empty_box_is_told_what_is_wrong_with_it(box: str) -> None:
    with pytest.raises(InvalidOptionError, match="left < right and top < bottom"):
        Options.parse(box=box)


@pytest.mark.parametrize("explain", ["", "yes", "no", "2", "truely", "None"])
def test_an_unclear_explain_is_an_invalid_option(explain: str) -> None:
    with pytest.raises(InvalidOptionError, match="explain must be true or false"):
        Options.parse(explain=explain)


@pytest.mark.parametrize(
    ("explain", "meant"),
    [("true", True), ("True", True), (" TRUE ", True), ("1", True), ("false", False), ("0", False)],
)
def test_explain_is_read_as_people_write_it(explain: str, meant: bool) -> None:
    assert Options.parse(explain=explain).explain is meant


def test_options_are_read_from_text() -> None:
    assert Options.parse() == Options(top_k=5, request_id=None, box=None, explain=False)
    assert Options.parse(
        top_k=" 20 ", request_id="3f-A_1.x", box=" 1, 2,30 ,40 ", explain="true"
    ) == Options(20, "3f-A_1.x", Box(1, 2, 30, 40), True)


def test_every_option_can_be_given_as_text() -> None:
    given = {"top_k": "2", "request_id": "a", "box": "0,0,1,1", "explain": "1"}
    assert set(given) == set(OPTION_NAMES)
    defaults, parsed = Options(), Options.parse(**given)
    assert all(getattr(parsed, name) != getattr(defaults, name) for name in OPTION_NAMES)
