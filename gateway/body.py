"""From a request's body to photos and options, in memory and within limits.

Photos are never stored. Every limit holds while reading, before a byte too many is kept.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from gateway.errors import (
    BodyTooLargeError,
    ImageMissingError,
    UnsupportedMediaTypeError,
)
from gateway.form_body import read_form
from gateway.json_body import read_json
from gateway.options import IdentifyOptions
from gateway.settings import Settings
from gateway.uploads import (
    HOW_TO_SEND,
    Lease,
    Photo,
    Upload,
    megabytes,
    photo_too_large,
)

__all__ = ["read_upload"]


async def read_upload(request: Request, settings: Settings, lease: Lease) -> Upload:
    """Read a request's photos.

    Args:
        request: one whose body was not read yet.
        settings: the limits.
        lease: pays for what is kept.

    Raises:
        GatewayError: there is no photo, or the body can't be taken. A photo over its limit is an
            error by itself only where it is the body; in a form or in JSON it is a refused `Photo`.
    """
    header = request.headers.get("content-type", "")
    media_type, parameters = parse_options_header(header)
    kind = media_type.decode("latin-1")
    if request.headers.get("content-encoding", "identity") != "identity":
        raise UnsupportedMediaTypeError("Compressed bodies are not read. Send the photo as it is.")
    chunks = _within_limit(request, settings.max_body_bytes)
    if kind == "multipart/form-data":
        return await read_form(chunks, parameters.get(b"boundary"), settings, lease)
    if kind == "application/json":
        return await read_json(chunks, settings, lease)
    # Without a type the body is what curl and many libraries send when told nothing: take it.
    if kind.startswith("image/") or kind in ("application/octet-stream", ""):
        photo = await _read_raw(request, chunks, settings, lease)
        return Upload((photo,), IdentifyOptions())
    async for chunk in chunks:
        if chunk:
            break
    else:
        raise ImageMissingError(f"The request holds no photo. {HOW_TO_SEND}")
    if kind == "application/x-www-form-urlencoded":
        raise UnsupportedMediaTypeError(
            f"The body came as a web form, as curl sends it when not told its type. {HOW_TO_SEND}"
        )
    raise UnsupportedMediaTypeError(f"A body of type {kind[:80]!r} holds no photo. {HOW_TO_SEND}")


async def _within_limit(request: Request, max_bytes: int) -> AsyncIterator[bytes]:
    """The body's chunks, as long as it keeps to the limit."""
    too_large = BodyTooLargeError(
        f"The body has more than {megabytes(max_bytes)}. Send fewer photos at a time."
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
    too_large = photo_too_large(settings)
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
        raise ImageMissingError(f"The request's body is empty. {HOW_TO_SEND}")
    return Photo(bytes(data))
