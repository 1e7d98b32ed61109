"""A photo that comes as base64 inside JSON, decoded while it arrives."""

from __future__ import annotations

import binascii
import json
import re

from gateway.errors import BodyUnreadableError, GatewayError, ImageMissingError
from gateway.settings import Settings
from gateway.uploads import Lease, Photo, photo_too_large

__all__ = ["PhotoText"]

_DATA_URL = re.compile(rb"\s*data:[\w.+/-]{0,100};base64,", re.ASCII)
_WHITESPACE = b" \t\r\n"
_BEGUN_ESCAPE = re.compile(rb"\\(?:u[0-9A-Fa-f]{0,3})?\Z")
_LONGEST_BEGUN_ESCAPE = 5


class PhotoText:
    """A photo as base64 text, of which only the decoded bytes are kept.

    Piece by piece, because decoding 20 MB at once would keep all other requests waiting, and
    because text and bytes of it all would take twice the memory.

    Args:
        settings: the limits.
        lease: pays for what is kept.
    """

    def __init__(self, settings: Settings, lease: Lease) -> None:
        self._settings = settings
        self._lease = lease
        self._data = bytearray()
        self._is_begun = False
        self._is_base64 = True
        self._is_too_large = False
        self._escape = b""
        self._group = b""

    def feed_json(self, text: bytes) -> None:
        """Take the next piece as it stands between the quotes in JSON, cut anywhere."""
        text = self._escape + text
        cut = _BEGUN_ESCAPE.search(text, max(0, len(text) - _LONGEST_BEGUN_ESCAPE))
        end = cut.start() if cut else len(text)
        text, self._escape = text[:end], text[end:]
        if b"\\" in text:
            try:
                text = json.loads(b'"' + text + b'"', strict=False).encode("ascii")
            except ValueError:
                self._is_base64 = False
        self.feed(text)

    def feed(self, text: bytes) -> None:
        """Take the next piece of base64; the first must hold all of a `data:…,` before it."""
        if not self._is_begun:
            self._is_begun = True
            text = _DATA_URL.sub(b"", text, count=1) if _DATA_URL.match(text) else text
        text = self._group + text.translate(None, _WHITESPACE)
        # The last group of four is kept back: it alone may hold padding.
        end = max(0, len(text) - 1) // 4 * 4
        self._group = text[end:]
        self._is_base64 &= b"=" not in text[:end]
        self._decode(text[:end])

    def photo(self, name: str) -> Photo:
        """The photo, now that all of its text was there.

        Args:
            name: of the JSON member, for the error of one that is refused.
        """
        self._decode(self._group)
        refusal: GatewayError | None = None
        if not self._is_base64 or self._escape:
            refusal = BodyUnreadableError(
                f"{name} is not base64. Send the photo file's bytes in standard base64, "
                "as the command base64 writes them."
            )
        elif self._is_too_large:
            refusal = photo_too_large(self._settings)
        elif not self._data:
            refusal = ImageMissingError(f"{name} is empty.")
        return Photo(b"" if refusal else bytes(self._data), refusal=refusal)

    def _decode(self, text: bytes) -> None:
        if not self._is_base64 or self._is_too_large:
            return  # the photo is refused; what follows it in the body is still read
        try:
            data = binascii.a2b_base64(text, strict_mode=True)
        except binascii.Error:
            self._is_base64 = False
            self._data.clear()
            return
        if len(self._data) + len(data) > self._settings.max_photo_bytes:
            self._is_too_large = True
            self._data.clear()
            return
        self._lease.take(len(data))
        self._data += data
