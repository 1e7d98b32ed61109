"""Photos and options out of a JSON body.

    {"image": "…base64…", "top_k": 3}
    {"images": ["…base64…", "…base64…"]}

A hundred megabytes of `[[[[…` would become gigabytes of Python objects, and one letter that is not
ASCII makes a text four times as big. So only what stands around the long texts is parsed as JSON,
and that must be little; the long texts are photos, and are decoded as they arrive.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import AsyncIterator
from typing import Any

from gateway.errors import BodyUnreadableError, ImageMissingError, InvalidOptionError
from gateway.options import IdentifyOptions
from gateway.photo_text import PhotoText
from gateway.settings import Settings
from gateway.uploads import Lease, Photo, Upload, too_many_photos

__all__ = ["read_json"]

_HOW_TO_SEND = 'Send {"image": "BASE64"} or {"images": ["BASE64", "BASE64"]}.'
# Anything longer is a photo; a photo may well be shorter.
_SHORT_TEXT_BYTES = 1000
_MAX_STRUCTURE_BYTES = 2**16
# From inside a string to its end, or to the end of the chunk: possessive, so that no body is slow.
_REST_OF_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)


async def read_json(chunks: AsyncIterator[bytes], settings: Settings, lease: Lease) -> Upload:
    """Read a JSON body: `image` or `images` are photos, other members are options.

    Raises:
        GatewayError: there is no photo, or the body can't be taken. A photo that is not base64, or
            is over its limit, is a refused `Photo`.
    """
    scanner = _Scanner(settings, lease)
    async for chunk in chunks:
        scanner.feed(chunk)
    members = scanner.members()
    photos = _photos(members, scanner, settings)
    for name, value in members.items():
        if name in scanner.long_texts:
            raise InvalidOptionError(
                f"There is no option with so long a name, only "
                f"{', '.join(IdentifyOptions.model_fields)}."
            )
        if isinstance(value, str) and value in scanner.long_texts:
            raise InvalidOptionError(f"{name[:40]} is too long to be an option's value.")
    return Upload(photos, IdentifyOptions.from_json(members))


class _Scanner:
    """Splits JSON, as it arrives, into its long texts and what stands around them.

    Attributes:
        long_texts: by what stands in their place in `members()`.
    """

    def __init__(self, settings: Settings, lease: Lease) -> None:
        self._settings = settings
        self._lease = lease
        self._structure = bytearray()
        self._in_string = False
        self._text = b""  # of the string it is in, as long as that is a short one
        self._photo: PhotoText | None = None  # the string it is in, if it is a long one
        self._backslash = b""  # the chunk's last byte, if the next byte belongs to it
        # Nobody can write a text that is taken for a long one's place.
        self._mark = secrets.token_hex()
        self.long_texts: dict[str, PhotoText] = {}

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes.

        Raises:
            GatewayError: there are too many photos, or too much else.
        """
        chunk, self._backslash = self._backslash + chunk, b""
        position = 0
        while position < len(chunk):
            if self._in_string:
                end = self._match_end(chunk, position)
                self._add_text(chunk[position:end])
                if chunk[end : end + 1] != b'"':
                    self._backslash = chunk[end:]
                    return
                self._end_string()
            else:
                quote = chunk.find(b'"', position)
                end = len(chunk) if quote < 0 else quote
                self._add_structure(chunk[position:end])
                self._in_string = quote >= 0
            position = end + 1

    def members(self) -> dict[str, Any]:
        """The body's members, with short marks in place of the long texts.

        Raises:
            GatewayError: the body is empty, or no JSON object.
        """
        if self._in_string:
            raise BodyUnreadableError("The JSON body breaks off inside a text. Send it again.")
        if not self._structure.strip():
            raise ImageMissingError(f"The request's body is empty. {_HOW_TO_SEND}")
        try:
            members = json.loads(
                self._structure.decode(), strict=False, object_pairs_hook=_without_doubles
            )
        except (ValueError, RecursionError) as error:
            raise BodyUnreadableError(f"The body is no JSON. {_HOW_TO_SEND}") from error
        if not isinstance(members, dict):
            raise BodyUnreadableError(f"The JSON body is no object. {_HOW_TO_SEND}")
        return members

    def photo(self, name: str, value: object) -> Photo:
        """The photo that a member of `members()` is.

        Raises:
            BodyUnreadableError: it is no text.
        """
        if not isinstance(value, str):
            raise BodyUnreadableError(f"{name} is no text in base64. {_HOW_TO_SEND}")
        text = self.long_texts.get(value)
        if text is None:
            text = PhotoText(self._settings, self._lease)
            text.feed(value.encode("ascii", "replace"))
        return text.photo(name)

    @staticmethod
    def _match_end(chunk: bytes, position: int) -> int:
        match = _REST_OF_STRING.match(chunk, position)
        assert match  # noqa: S101 - for mypy: it matches nothing, too
        return match.end()

    def _add_structure(self, text: bytes) -> None:
        if len(self._structure) + len(text) > _MAX_STRUCTURE_BYTES:
            raise BodyUnreadableError(f"The JSON body holds too much beside photos. {_HOW_TO_SEND}")
        self._lease.take(len(text))
        self._structure += text

    def _add_text(self, text: bytes) -> None:
        if self._photo is None:
            self._text += text
            if len(self._text) <= _SHORT_TEXT_BYTES:
                return
            if len(self.long_texts) == self._settings.max_photos:
                raise too_many_photos(self._settings)
            self._photo = PhotoText(self._settings, self._lease)
            text = self._text
        self._photo.feed_json(text)

    def _end_string(self) -> None:
        text = self._text
        if self._photo is not None:
            mark = f"{self._mark}{len(self.long_texts)}"
            self.long_texts[mark] = self._photo
            text = mark.encode()
        self._add_structure(b'"' + text + b'"')
        self._in_string, self._text, self._photo = False, b"", None


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, value in pairs:
        name.encode()  # a lone surrogate is no text, and could be told to nobody: a ValueError
        if name in members:
            raise InvalidOptionError(f"{name[:40]} was given twice. Give it once.")
        members[name] = value
    return members


def _photos(members: dict[str, Any], scanner: _Scanner, settings: Settings) -> tuple[Photo, ...]:
    """Take the photos out of the members."""
    if "image" in members and "images" in members:
        raise BodyUnreadableError("The JSON body holds both image and images. Send one of them.")
    if "image" in members:
        named = {"image": members.pop("image")}
    else:
        images = members.pop("images", [])
        if not isinstance(images, list):
            raise BodyUnreadableError(f"images is no list of texts in base64. {_HOW_TO_SEND}")
        named = {f"images[{index}]": image for index, image in enumerate(images)}
    if not named:
        raise ImageMissingError(f"The JSON body holds no photo. {_HOW_TO_SEND}")
    if len(named) > settings.max_photos:
        raise too_many_photos(settings)
    return tuple(scanner.photo(name, text) for name, text in named.items())
