"""What may be asked of one photo."""

from __future__ import annotations

import re
from dataclasses import dataclass

from handler.errors import InvalidOptionError
from handler.region import Box

__all__ = ["OPTION_NAMES", "Options"]

_MAX_TOP_K = 20
_REQUEST_ID = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,9}", re.ASCII)
_TRUTH = {"true": True, "1": True, "false": False, "0": False}

OPTION_NAMES = ("top_k", "request_id", "box", "explain")


@dataclass(frozen=True, slots=True)
class Options:
    """What may be asked of one photo.

    Attributes:
        top_k: how many predictions the answer holds, 1 to 20.
        request_id: comes back in the answer.
        box: the part of the photo that shows the car; None lets the worker find it.
        explain: whether the answer says where the network looked.

    Raises:
        InvalidOptionError: a value is out of its range.
    """

    top_k: int = 5
    request_id: str | None = None
    box: Box | None = None
    explain: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= _MAX_TOP_K:
            raise InvalidOptionError(f"top_k must be 1 to {_MAX_TOP_K}, not {self.top_k}.")
        if self.request_id is not None and not _REQUEST_ID.fullmatch(self.request_id):
            raise InvalidOptionError(
                "request_id must be 1 to 128 letters, digits or any of . _ : / + = -"
            )

    @classmethod
    def parse(
        cls,
        *,
        top_k: str | None = None,
        request_id: str | None = None,
        box: str | None = None,
        explain: str | None = None,
    ) -> Options:
        """Read options from text, as they come over HTTP; None means the default.

        Raises:
            InvalidOptionError: a value can't be read, or is out of its range.
        """
        return cls(
            top_k=5 if top_k is None else _read_top_k(top_k),
            request_id=request_id,
            box=None if box is None else _read_box(box),
            explain=False if explain is None else _read_explain(explain),
        )


def _read_top_k(text: str) -> int:
    if not _NUMBER.fullmatch(text.strip()):
        raise InvalidOptionError(f"top_k must be a whole number from 1 to {_MAX_TOP_K}.")
    return int(text)


def _read_box(text: str) -> Box:
    numbers = [number.strip() for number in text.split(",")]
    if len(numbers) != 4 or not all(map(_NUMBER.fullmatch, numbers)):
        raise InvalidOptionError(
            "box must be left,top,right,bottom in whole pixels of the upright photo, "
            "for example 120,80,900,560."
        )
    try:
        return Box(*map(int, numbers))
    except ValueError as error:
        raise InvalidOptionError(
            "box must be left,top,right,bottom, with left < right and top < bottom."
        ) from error


def _read_explain(text: str) -> bool:
    try:
        return _TRUTH[text.strip().lower()]
    except KeyError:
        raise InvalidOptionError("explain must be true or false.") from None
