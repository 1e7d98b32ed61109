"""Photos and options out of a multipart form.

Starlette's own form parser spools files over 1 MB to disk, so forms are taken apart here, chunk by
chunk as they arrive, with the parser underneath it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from gateway.errors import (
    BodyUnreadableError,
    GatewayError,
    ImageMissingError,
    InvalidOptionError,
    TooManyPhotosError,
)
from gateway.options import IdentifyOptions
from gateway.settings import Settings
from gateway.uploads import HOW_TO_SEND, Lease, Photo, Upload, photo_too_large, too_many_photos

__all__ = ["read_form"]

# Options are numbers and names; nothing longer is one.
_MAX_OPTION_BYTES = 1000
# Parts of a form beside the photos: the options, and file inputs that were left empty.
_MAX_NOT_PHOTOS = len(IdentifyOptions.model_fields) + 20


async def read_form(
    chunks: AsyncIterator[bytes], boundary: bytes | None, settings: Settings, lease: Lease
) -> Upload:
    """Read a multipart form: files are photos, other fields are options.

    Raises:
        GatewayError: there is no photo, or the form can't be taken.
    """
    if not boundary:
        raise BodyUnreadableError(
            "The multipart body names no boundary. Let your HTTP library set the Content-Type."
        )
    form = _Form(settings, lease)
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": form.begin_part,
                "on_header_field": form.add_header_name,
                "on_header_value": form.add_header_value,
                "on_header_end": form.end_header,
                "on_headers_finished": form.end_headers,
                "on_part_data": form.add_data,
                "on_part_end": form.end_part,
                "on_end": form.end,
            },
        )
        async for chunk in chunks:
            parser.write(chunk)
    except FormParserError as error:
        raise BodyUnreadableError(f"The multipart body is malformed. {HOW_TO_SEND}") from error
    if not form.complete:
        raise BodyUnreadableError("The multipart body breaks off before its end. Send it again.")
    if not form.photos:
        raise ImageMissingError(f"The form holds no photo. {HOW_TO_SEND}")
    return Upload(tuple(form.photos), IdentifyOptions.from_form(form.fields))


class _Form:
    """Collects the parts of a multipart body; its methods are the parser's callbacks."""

    def __init__(self, settings: Settings, lease: Lease) -> None:
        self._settings = settings
        self._lease = lease
        self.photos: list[Photo] = []
        self.fields: dict[str, str] = {}
        self.complete = False
        self._parts = 0

    def begin_part(self) -> None:
        # Those that are not kept, too: each costs time, and 100 MB hold a million of them.
        self._parts += 1
        if self._parts > self._settings.max_photos + _MAX_NOT_PHOTOS:
            raise TooManyPhotosError(
                f"The form has more than {self._parts - 1} parts. One request takes at most "
                f"{self._settings.max_photos} photos, and each option once."
            )
        self._headers: dict[bytes, bytes] = {}
        self._header_name = self._header_value = b""
        # Not a list of pieces: a body made of almost-boundaries comes in millions of them.
        self._data = bytearray()
        self._size = 0

    def add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def end_header(self) -> None:
        self._headers[self._header_name.lower()] = self._header_value
        self._header_name = self._header_value = b""

    def end_headers(self) -> None:
        _, disposition = parse_options_header(self._headers.get(b"content-disposition"))
        filename = disposition.get(b"filename")
        self._name = disposition.get(b"name", b"").decode(errors="replace")
        self._filename = None if filename is None else filename.decode(errors="replace")
        part_type = self._headers.get(b"content-type", b"").lower()
        self._is_photo = self._filename is not None or part_type.startswith(
            (b"image/", b"application/octet-stream")
        )
        if self._is_photo:
            # An HTML form whose file input was left empty sends a nameless, empty file (not kept).
            if len(self.photos) == self._settings.max_photos:
                raise too_many_photos(self._settings)
            self._limit = self._settings.max_photo_bytes
        else:
            if self._name not in IdentifyOptions.model_fields:
                raise InvalidOptionError(
                    f"There is no option {self._name[:40]!r}, only "
                    f"{', '.join(IdentifyOptions.model_fields)}. A photo needs a file name: "
                    "curl -F file=@photo.jpg"
                )
            if self._name in self.fields:
                raise InvalidOptionError(f"{self._name} was given twice.")
            self._limit = _MAX_OPTION_BYTES

    def add_data(self, data: bytes, start: int, end: int) -> None:
        self._size += end - start
        if self._size <= self._limit:
            self._lease.take(end - start)
            self._data += data[start:end]
        else:
            # The photo is refused; what follows it in the form is still read.
            self._data.clear()

    def end_part(self) -> None:
        if self._is_photo:
            if self._size or self._filename:
                self.photos.append(Photo(bytes(self._data), self._filename, self._refusal()))
        elif self._size > self._limit:
            raise InvalidOptionError(f"{self._name} is too long to be an option's value.")
        else:
            self.fields[self._name] = self._data.decode(errors="replace")

    def end(self) -> None:
        self.complete = True

    def _refusal(self) -> GatewayError | None:
        if not self._size:
            return ImageMissingError(f"The file {self._filename!r} is empty.")
        return photo_too_large(self._settings) if self._size > self._limit else None
