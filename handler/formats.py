"""Which type of image some bytes are: their first bytes decide, never a name or a declared type."""

from __future__ import annotations

from typing import Literal

from handler.errors import UnsupportedImageTypeError

__all__ = ["ACCEPTED", "Format", "sniff_format"]

Format = Literal["JPEG", "PNG", "WebP", "HEIC"]

ACCEPTED = "Send a JPEG, PNG, WebP or HEIC photo."

_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_AVIF_BRANDS = {b"avif", b"avis"}

_OTHER_TYPES = (
    (b"GIF8", "a GIF image"),
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
    (b"BM", "a BMP image"),
    (b"%PDF", "a PDF document"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image"),
)


def sniff_format(data: bytes | bytearray) -> Format:
    """The format that the first bytes announce.

    Raises:
        UnsupportedImageTypeError: they announce none of those that are read.
    """
    head = bytes(data[:256])
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WebP"
    what = next((name for magic, name in _OTHER_TYPES if head.startswith(magic)), None)
    if head[4:8] == b"ftyp":
        brands = _brands(head)
        if brands & _AVIF_BRANDS:
            what = "an AVIF image"
        elif brands & _HEIC_BRANDS or b"mif1" in brands:
            return "HEIC"
        else:
            what = "a video or another file of the MP4 family"
    raise UnsupportedImageTypeError(
        f"This is {what}, which is not read. {ACCEPTED}"
        if what
        else f"This is not an image of a type that is read. {ACCEPTED}"
    )


def _brands(head: bytes) -> set[bytes]:
    """The brands in the `ftyp` box that opens an ISO media file (HEIC, AVIF, MP4)."""
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return {head[8:12], *(head[i : i + 4] for i in range(16, end, 4))}
