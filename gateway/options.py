"""What may be asked of `/v1/identify`: in the address, in the form, or in the JSON body."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Self

from fastapi import Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema
from pydantic_core import PydanticCustomError

from gateway.errors import InvalidOptionError, invalid_option

__all__ = ["VERSION_PATTERN", "IdentifyOptions", "combined_options"]

# A version becomes part of an address at TorchServe.
VERSION_PATTERN = r"^[0-9A-Za-z][0-9A-Za-z._-]{0,39}$"
_BOX_PATTERN = r"^[0-9]{1,9}(,[0-9]{1,9}){3}$"

_TRUTH = {"true": True, "false": False}


def _read_truth(value: object) -> object:
    """`true` and `false` in any case; all else that pydantic takes for one is a typing error."""
    if not isinstance(value, str):
        return value
    try:
        return _TRUTH[value.strip().lower()]
    except KeyError:
        raise PydanticCustomError("truth", "Input should be true or false") from None


def _read_whole(value: object) -> object:
    """JSON has one kind of number: 5.0 is 5. As text, `1_0` is 10 to Python only."""
    if isinstance(value, str) and "_" in value:
        raise PydanticCustomError("whole", "Input should be a valid integer")
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _read_version(value: object) -> object:
    if isinstance(value, str) and re.fullmatch(VERSION_PATTERN, value):
        return value
    raise PydanticCustomError("version", "Input should be a version's name, as 1.1")


def _read_box(value: object) -> object:
    """Four numbers, as text or as a list → the text that the worker takes."""
    text = ",".join(str(_read_whole(one)) for one in value) if isinstance(value, list) else value
    if not isinstance(text, str) or not re.fullmatch(_BOX_PATTERN, text := _without_spaces(text)):
        raise PydanticCustomError(
            "box",
            "Input should be left,top,right,bottom in whole pixels of the upright photo, "
            "as 120,80,900,560",
        )
    left, top, right, bottom = map(int, text.split(","))
    if left >= right or top >= bottom:
        raise PydanticCustomError(
            "box", "Input should be left,top,right,bottom, with left < right and top < bottom"
        )
    return text


def _without_spaces(text: str) -> str:
    return ",".join(part.strip(" ") for part in text.split(","))


class IdentifyOptions(BaseModel):
    """What may be asked of `/v1/identify`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    top_k: Annotated[int, BeforeValidator(_read_whole)] = Field(
        default=5, ge=1, le=20, description="How many predictions the answer holds."
    )
    version: Annotated[
        str | None,
        BeforeValidator(_read_version),
        WithJsonSchema({"type": "string", "pattern": VERSION_PATTERN, "examples": ["1.1"]}),
    ] = Field(
        default=None,
        description="Which version of the model shall answer, one of `GET /v1/models`; "
        "if not given, the server chooses.",
    )
    explain: Annotated[bool, BeforeValidator(_read_truth)] = Field(
        default=False, description="Whether the answer says where the network looked: `heatmap`."
    )
    box: Annotated[
        str | None,
        BeforeValidator(_read_box),
        WithJsonSchema(
            {
                "type": "string",
                "format": "box",
                "pattern": _BOX_PATTERN,
                "examples": ["12,8,600,420"],
            }
        ),
    ] = Field(
        default=None,
        description="Where the car is, if you know: `left,top,right,bottom` in pixels of the "
        "upright photo at its full size, right and bottom exclusive. If not given, the model "
        "looks for it.",
    )

    @classmethod
    def from_form(cls, fields: Mapping[str, str]) -> Self:
        """Out of a form's fields, which are texts.

        Raises:
            InvalidOptionError: one is unknown, or out of its range.
        """
        return cls._checked(fields, strict=False)

    @classmethod
    def from_json(cls, members: Mapping[str, Any]) -> Self:
        """Out of a JSON body's members, which have types: `"5"` is no number.

        Raises:
            InvalidOptionError: one is unknown, out of its range, or of another type.
        """
        return cls._checked(members, strict=True)

    @classmethod
    def _checked(cls, options: Mapping[str, Any], strict: bool) -> Self:
        try:
            return cls.model_validate(options, strict=strict)
        except ValidationError as error:
            raise invalid_option(error.errors(), cls.model_fields) from error


def combined_options(
    request: Request, query: IdentifyOptions, body: IdentifyOptions
) -> IdentifyOptions:
    """The options of a request, each given once.

    Args:
        request: whose address is looked at once more: of an option that stands in it twice,
            `query` has the last.
        query: what the address asks for.
        body: what the form or JSON body asks for.

    Raises:
        InvalidOptionError: an option was given twice.
    """
    counts = Counter(name for name, _ in request.query_params.multi_items())
    in_body = body.model_dump(exclude_unset=True)
    for name, count in counts.items():
        if count > 1:
            raise InvalidOptionError(
                f"{name} was given {count} times in the address. Give it once."
            )
        if name in in_body:
            raise InvalidOptionError(
                f"{name} was given twice: in the address and in the body. Give it once."
            )
    return query.model_copy(update=in_body)
