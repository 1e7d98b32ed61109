"""From a request's body to photos and options, in memory and within limits.

Photos are never stored: Starlette's own form parser spools files over 1 MB to disk, so multipart
bodies are taken apart here, chunk by chunk as they arrive, with the parser underneath it. Every
limit holds while reading, before a byte too many is kept.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from gateway.errors import (
    BodyTooLargeError,
    BodyUnreadableError,
    GatewayError,
    ImageMissingError,
    ImageTooLargeError,
    InvalidOptionError,
    ServerBusyError,
    TooManyPhotosError,
    UnsupportedMediaTypeError,
)
from gateway.settings import MEGABYTE, Settings

__all__ = ["Photo", "Upload", "UploadMemory", "read_upload"]

_HOW_TO_SEND = (
    "Send it as a form file (curl -F file=@photo.jpg URL) or as the body itself "
    "(curl -H 'Content-Type: image/jpeg' --data-binary @photo.jpg URL)."
)
# Options are numbers and names; nothing longer is one.
_MAX_OPTION_BYTES = 1000


@dataclass(frozen=True, slots=True)
class Photo:
    """One photo of a request.

    Attributes:
        data: the file as it was sent; empty where it was refused.
        filename: as it was sent; None for a raw body.
        refusal: why the photo can't even be passed on; None where it can.
    """

    data: bytes
    filename: str | None = None
    refusal: GatewayError | None = None


@dataclass(frozen=True, slots=True)
class Upload:
    """What a request's body held.

    Attributes:
        photos: in the order they were sent, at least one.
        fields: the form fields that are not photos, name → text.
    """

    photos: tuple[Photo, ...]
    fields: dict[str, str]


class UploadMemory:
    """Bounds the bytes that all uploads together hold."""

    def __init__(self, capacity: int) -> None:
        self._free = capacity

    @contextmanager
    def lease(self) -> Iterator[Lease]:
        """A share of the memory, given back at the end of the `with` block."""
        lease = Lease(self)
        try:
            yield lease
        finally:
            self._free += lease.taken

    def take(self, size: int) -> None:
        """Take `size` bytes, or raise ServerBusyError."""
        if size > self._free:
            raise ServerBusyError("Too many uploads are under way. Try again in a second.")
        self._free -= size


class Lease:
    """What one request has taken of the upload memory."""

    def __init__(self, memory: UploadMemory) -> None:
        self._memory = memory
        self.taken = 0

    def take(self, size: int) -> None:
        """Take `size` bytes more, or raise ServerBusyError."""
        self._memory.take(size)
        self.taken += size


async def read_upload(
    request: Request, settings: Settings, lease: Lease, option_names: frozenset[str]
) -> Upload:
    """Read a request's photos.

    Args:
        request: one whose body was not read yet.
        settings: the limits.
        lease: pays for what is kept.
        option_names: the form fields that may stand beside the photos.

    Raises:
        GatewayError: there is no photo, or the body can't be taken. A photo over its limit is an
            error by itself only where it came alone (raw); in a form it is a refused `Photo`.
    """
    header = request.headers.get("content-type", "")
    media_type, parameters = parse_options_header(header)
    kind = media_type.decode("latin-1")
    if request.headers.get("content-encoding", "identity") != "identity":
        raise UnsupportedMediaTypeError("Compressed bodies are not read. Send the photo as it is.")
    chunks = _within_limit(request, settings.max_body_bytes)
    if kind == "multipart/form-data":
        return await _read_form(chunks, parameters.get(b"boundary"), settings, lease, option_names)
    # Without a type the body is what curl and many libraries send when told nothing: take it.
    if kind.startswith("image/") or kind in ("application/octet-stream", ""):
        return Upload((await _read_raw(request, chunks, settings, lease),), {})
    async for chunk in chunks:
        if chunk:
            break
    else:
        raise ImageMissingError(f"The request holds no photo. {_HOW_TO_SEND}")
    if kind == "application/x-www-form-urlencoded":
        raise UnsupportedMediaTypeError(
            f"The body came as a web form, as curl sends it when not told its type. {_HOW_TO_SEND}"
        )
    raise UnsupportedMediaTypeError(f"A body of type {kind[:80]!r} holds no photo. {_HOW_TO_SEND}")


async def _within_limit(request: Request, max_bytes: int) -> AsyncIterator[bytes]:
    """The body's chunks, as long as it keeps to the limit."""
    too_large = BodyTooLargeError(
        f"The body has more than {_megabytes(max_bytes)}. Send fewer photos at a time."
    )
    declared = request.headers.get("content-length", "")
    # Before the first byte is asked for: a client that waits for "100 Continue" sends none.
    if declared.isdecimal() and int(declared) > max_bytes:
        raise too_large
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > max_bytes:
            raise too_large
        yield chunk


async def _read_raw(
    request: Request, chunks: AsyncIterator[bytes], settings: Settings, lease: Lease
) -> Photo:
    too_large = _photo_too_large(settings)
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > settings.max_photo_bytes:
        raise too_large
    data = bytearray()
    async for chunk in chunks:
        if len(data) + len(chunk) > settings.max_photo_bytes:
            raise too_large
        lease.take(len(chunk))
        data += chunk
    if not data:
        raise ImageMissingError(f"The request's body is empty. {_HOW_TO_SEND}")
    return Photo(bytes(data))


async def _read_form(
    chunks: AsyncIterator[bytes],
    boundary: bytes | None,
    settings: Settings,
    lease: Lease,
    option_names: frozenset[str],
) -> Upload:
    if not boundary:
        raise BodyUnreadableError(
            "The multipart body names no boundary. Let your HTTP library set the Content-Type."
        )
    form = _Form(settings, lease, option_names)
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
        raise BodyUnreadableError(f"The multipart body is malformed. {_HOW_TO_SEND}") from error
    if not form.complete:
        raise BodyUnreadableError("The multipart body breaks off before its end. Send it again.")
    if not form.photos:
        raise ImageMissingError(f"The form holds no photo. {_HOW_TO_SEND}")
    return Upload(tuple(form.photos), form.fields)


class _Form:
    """Collects the parts of a multipart body; its methods are the parser's callbacks."""

    def __init__(self, settings: Settings, lease: Lease, option_names: frozenset[str]) -> None:
        self._settings = settings
        self._lease = lease
        self._option_names = option_names
        self.photos: list[Photo] = []
        self.fields: dict[str, str] = {}
        self.complete = False

    def begin_part(self) -> None:
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
                raise TooManyPhotosError(
                    f"One request takes at most {self._settings.max_photos} photos. "
                    "Send the others in another one."
                )
            self._limit = self._settings.max_photo_bytes
        else:
            if self._name not in self._option_names:
                raise InvalidOptionError(
                    f"There is no option {self._name[:40]!r}, only "
                    f"{', '.join(sorted(self._option_names))}. A photo needs a file name: "
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
        return _photo_too_large(self._settings) if self._size > self._limit else None


def _photo_too_large(settings: Settings) -> ImageTooLargeError:
    return ImageTooLargeError(
        f"The photo has more than {_megabytes(settings.max_photo_bytes)}. Send it smaller: "
        "1000 pixels across are plenty."
    )


def _megabytes(size: int) -> str:
    return f"{size / MEGABYTE:g} MB"
