"""Files that a worker on the internet is sent: unusual ones that must be read, and bad ones.

Nothing here is random unless a generator is handed in, so a test that fails fails again.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import pillow_heif
from PIL import ExifTags, Image, ImageCms, ImageOps

__all__ = [
    "Sent",
    "bad_files",
    "encode",
    "endless_scans",
    "exif",
    "interlaced_png",
    "jpeg_segment",
    "mutate",
    "png",
    "png_chunk",
    "unusual_files",
]

pillow_heif.register_heif_opener()  # so that `encode` can write HEIC

_WASTE_BYTES = 4_000_000  # enough to hurt a decoder that trips over it, quick to send


@dataclass(frozen=True, slots=True)
class Sent:
    """A file and what becomes of it.

    Attributes:
        name: what is special about it.
        data: the file.
        code: of the error it is answered with; None where it is read.
    """

    name: str
    data: bytes
    code: str | None = None


def encode(image: Image.Image, image_format: str, **options: Any) -> bytes:
    """A picture as a file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


# --- parts of files ------------------------------------------------------------------------------


def exif(orientation: int) -> Image.Exif:
    """EXIF metadata that says how a photo is turned to stand upright."""
    metadata = Image.Exif()
    metadata[ExifTags.Base.Orientation] = orientation
    return metadata


def jpeg_segment(marker: int, content: bytes) -> bytes:
    """A JPEG segment."""
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def png_chunk(name: bytes, content: bytes) -> bytes:
    """A PNG chunk with its checksum."""
    return struct.pack(">I", len(content)) + name + content + _crc(name + content)


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of these chunks, whatever they are."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def interlaced_png(image: Image.Image) -> bytes:
    """An RGB picture as a PNG that arrives in seven passes (Pillow doesn't write any)."""
    pixels = np.asarray(image.convert("RGB"))
    rows = b""
    for x, y, dx, dy in (
        (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
        (0, 1, 1, 2),
    ):  # fmt: skip
        part = pixels[y::dy, x::dx]
        if part.shape[1]:
            rows += b"".join(b"\0" + row.tobytes() for row in part)
    return png((b"IHDR", _ihdr(*image.size, interlace=1)), (b"IDAT", zlib.compress(rows)), _IEND)


def endless_scans(progressive: bytes, times: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    last = progressive.rindex(b"\xff\xda")
    return progressive[:-2] + times * progressive[last:-2] + progressive[-2:]


_IEND = (b"IEND", b"")


def _ihdr(width: int, height: int, depth: int = 8, colour: int = 2, interlace: int = 0) -> bytes:
    return struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)


def _crc(data: bytes) -> bytes:
    return struct.pack(">I", zlib.crc32(data))


# --- files that are read -------------------------------------------------------------------------


def unusual_files(image: Image.Image) -> Iterator[Sent]:
    """The picture in every way that photos come in: formats, modes, orientations, metadata."""
    picture = image.convert("RGB")
    see_through = picture.copy()
    see_through.putalpha(Image.linear_gradient("L").resize(picture.size))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    srgb = srgb[:24] + bytes(12) + srgb[36:]  # without the time it was made
    grey_16 = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    other = ImageOps.mirror(picture)
    jpeg = encode(picture, "JPEG", quality=92)
    text = b"Comment\0\0" + zlib.compress(bytes(_WASTE_BYTES))

    def sent(name: str, image: Image.Image, image_format: str, **options: Any) -> Sent:
        return Sent(name, encode(image, image_format, **options))

    yield sent("JPEG progressive", picture, "JPEG", progressive=True)
    yield sent("JPEG 4:4:4", picture, "JPEG", subsampling=0)
    yield sent("JPEG with restarts", picture, "JPEG", restart_marker_rows=1)
    yield sent("JPEG grey", picture.convert("L"), "JPEG")
    yield sent("JPEG CMYK", picture.convert("CMYK"), "JPEG")
    yield sent("JPEG of two pictures", picture, "MPO", save_all=True, append_images=[other])
    yield sent("JPEG broken profile", picture, "JPEG", icc_profile=b"no profile")
    yield sent("JPEG huge profile", picture, "JPEG", icc_profile=bytes(_WASTE_BYTES))
    yield sent("JPEG broken EXIF", picture, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    yield Sent("JPEG and garbage", jpeg + bytes(range(256)) * 40)
    yield Sent("JPEG comments", jpeg[:2] + jpeg_segment(0xFE, bytes(60_000)) * 60 + jpeg[2:])
    yield Sent("JPEG with junk", jpeg[:20] + bytes(1000) + jpeg[20:])
    for orientation in range(1, 9):
        for kind in ("JPEG", "PNG", "WEBP"):
            yield sent(f"{kind} turned {orientation}", picture, kind, exif=exif(orientation))
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        yield sent(f"PNG {mode}", see_through.convert(mode), "PNG", icc_profile=srgb)
    yield sent("PNG transparent palette", picture.quantize(32), "PNG", transparency=3)
    yield sent("PNG transparent colour", picture, "PNG", transparency=picture.getpixel((0, 0)))
    yield sent("PNG 16 bits", grey_16, "PNG")
    yield sent("PNG animated", picture, "PNG", save_all=True, append_images=[other])
    yield Sent("PNG interlaced", interlaced_png(picture))
    yield Sent("PNG text bomb", _with_chunk(encode(picture, "PNG"), b"zTXt", text))
    yield Sent("PNG profile bomb", _with_chunk(encode(picture, "PNG"), b"iCCP", text))
    yield Sent("PNG broken profile", _with_chunk(encode(picture, "PNG"), b"iCCP", b"x\0\0garbage"))
    yield sent("WebP", picture, "WEBP", icc_profile=srgb)
    yield sent("WebP lossless", picture, "WEBP", lossless=True)
    yield sent("WebP transparent", see_through, "WEBP")
    yield sent("WebP animated", picture, "WEBP", save_all=True, append_images=[other])
    yield sent("HEIC", picture, "HEIF", exif=exif(6))
    yield sent("HEIC transparent", see_through, "HEIF")
    yield sent("HEIC of two pictures", picture, "HEIF", save_all=True, append_images=[other])
    for size in ((1, 1), (1, 400), (400, 1), (5000, 2)):
        for kind in ("JPEG", "PNG", "WEBP"):
            yield sent(f"{kind} of {size[0]}×{size[1]}", picture.resize(size), kind)


def _with_chunk(file: bytes, name: bytes, content: bytes) -> bytes:
    """A PNG with one more chunk behind its header."""
    return file[:33] + png_chunk(name, content) + file[33:]


# --- files that are not --------------------------------------------------------------------------


def bad_files(image: Image.Image) -> Iterator[Sent]:
    """What is refused, each with its code; the picture is what some of them were once."""
    picture = image.convert("RGB")
    files = {
        "JPEG": encode(picture, "JPEG"),
        "progressive JPEG": encode(picture, "JPEG", progressive=True),
        "PNG": encode(picture, "PNG"),
        "WebP": encode(picture, "WEBP"),
        "HEIC": encode(picture, "HEIF"),
    }
    yield Sent("nothing", b"", "image_missing")
    for name, data in {
        "text": b"This is a text, no photo.\n" * 50,
        "JSON": b'{"image": "data:image/jpeg;base64,/9j/4AAQSkZJRg=="}',
        "HTML": b"<!DOCTYPE html><html><body>404</body></html>",
        "one byte": b"\xff",
        "zeros": bytes(10_000),
        "GIF": encode(picture, "GIF"),
        "animated GIF": encode(picture, "GIF", save_all=True, append_images=[image]),
        "TIFF": encode(picture, "TIFF"),
        "BMP": encode(picture, "BMP"),
        "PDF": b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n" + bytes(500),
        "AVIF": encode(picture, "AVIF"),
        "video": b"\0\0\0\x18ftypisom\0\0\0\0isommp42" + bytes(500),
    }.items():
        yield Sent(name, data, "unsupported_image_type")
    for kind, data in files.items():
        for share in (0.03, 0.2, 0.5, 0.8):
            cut = max(16, int(len(data) * share))
            yield Sent(f"{kind} cut at {share}", data[:cut], "image_unreadable")
    jpeg, progressive, portable, webp = (
        files[kind] for kind in ("JPEG", "progressive JPEG", "PNG", "WebP")
    )
    for name, data in {
        "JPEG beginning": b"\xff\xd8\xff",
        "JPEG nonsense": b"\xff\xd8\xff\xe0" + b"nonsense" * 50,
        "JPEG lossless": jpeg.replace(b"\xff\xc0", b"\xff\xc3", 1),
        "JPEG arithmetic": jpeg.replace(b"\xff\xc0", b"\xff\xc9", 1),
        "JPEG endless scans": endless_scans(progressive, 300),
        "JPEG empty segments": jpeg[:2] + jpeg_segment(0xFE, b"") * (_WASTE_BYTES // 4) + jpeg[2:],
        "PNG beginning": b"\x89PNG\r\n\x1a\n",
        "PNG without pixels": png((b"IHDR", _ihdr(64, 64)), _IEND),
        "PNG of no width": png((b"IHDR", _ihdr(0, 64)), (b"IDAT", zlib.compress(b"")), _IEND),
        "PNG unknown colours": png((b"IHDR", _ihdr(8, 8, colour=5)), (b"IDAT", b""), _IEND),
        "PNG wrong checksum": portable[:29] + b"\0\0\0\0" + portable[33:],
        "PNG empty chunks": portable[:33] + png_chunk(b"abCd", b"") * 60_000 + portable[33:],
        "WebP beginning": b"RIFF\0\0\0\0WEBP",
        "WebP nonsense": webp[:20] + bytes(len(webp) - 20),
        "HEIC beginning": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        "HEIC nonsense": files["HEIC"][:60] + b"\xff" * 500,
    }.items():
        yield Sent(name, data, "image_unreadable")
    too_wide = struct.pack(">HH", 65_000, 65_000)
    frame = jpeg.index(b"\xff\xc0") + 5
    canvas = b"VP8X" + struct.pack("<II", 10, 0) + (b"\xff\xff\x00" * 2)
    for name, data in {
        "JPEG bomb": jpeg[:frame] + too_wide + jpeg[frame + 4 :],
        "PNG bomb": _png_bomb(20_000, 20_000),
        "PNG bomb of impossible size": _png_bomb(2**31 - 1, 2**31 - 1),
        "PNG bomb just over the limit": _png_bomb(10_001, 10_000),
        "WebP bomb": b"RIFF"
        + struct.pack("<I", len(canvas) + len(webp) - 8)
        + b"WEBP"
        + canvas
        + webp[12:],
        "HEIC bomb": _heic_bomb(files["HEIC"]),
    }.items():
        yield Sent(name, data, "image_too_large")


def _png_bomb(width: int, height: int) -> bytes:
    return png((b"IHDR", _ihdr(width, height)), (b"IDAT", zlib.compress(bytes(10_000))), _IEND)


def _heic_bomb(heic: bytes) -> bytes:
    """Declares 30,000 × 30,000 pixels wherever it declares any."""
    data = bytearray(heic)
    at = data.find(b"ispe")
    while at >= 0:
        data[at + 8 : at + 16] = struct.pack(">II", 30_000, 30_000)
        at = data.find(b"ispe", at + 1)
    return bytes(data)


# --- files that may be either --------------------------------------------------------------------

_EXTREMES = (b"\0", b"\xff", b"\x7f", b"\x80", b"\0\0", b"\xff\xff", b"\x7f\xff", b"\0\1",
             b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\1", b"\xff\xd9",
             b"\xff\xda", b"\xff\xc4", b"\0\1\x86\xa0")  # fmt: skip


def mutate(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """Damage a file in one to eight ways; half of them where headers are.

    Args:
        data: the file.
        rng: decides.
        others: what pieces of other files are taken from.
    """
    file = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        rng.choice(_MUTATIONS)(file, rng, others)
    if rng.random() < 0.7:
        _mend_checksums(file)
    return bytes(file)


def _place(file: bytearray, rng: Random) -> int:
    end = len(file) if rng.random() < 0.5 else min(len(file), 700)
    return rng.randrange(end) if end else 0


def _flip(file: bytearray, rng: Random, _others: Sequence[bytes]) -> None:
    for _ in range(rng.choice((1, 4, 32))):
        if file:
            file[_place(file, rng)] = rng.randrange(256)


def _set_extreme(file: bytearray, rng: Random, _others: Sequence[bytes]) -> None:
    value, at = rng.choice(_EXTREMES), _place(file, rng)
    file[at : at + len(value)] = value


def _cut(file: bytearray, rng: Random, _others: Sequence[bytes]) -> None:
    del file[_place(file, rng) :]


def _drop(file: bytearray, rng: Random, _others: Sequence[bytes]) -> None:
    at = _place(file, rng)
    del file[at : at + rng.choice((1, 2, 4, 12, 100, 1000))]


def _repeat(file: bytearray, rng: Random, _others: Sequence[bytes]) -> None:
    at = _place(file, rng)
    piece = bytes(file[at : at + rng.choice((1, 4, 12, 100, 1000))])
    file[at:at] = piece * rng.choice((1, 2, 30))


def _splice(file: bytearray, rng: Random, others: Sequence[bytes]) -> None:
    other = rng.choice(others)
    start = rng.randrange(len(other))
    at = _place(file, rng)
    piece = other[start : start + rng.choice((4, 40, 400, 4000))]
    file[at : at + rng.choice((0, len(piece)))] = piece


_MUTATIONS: tuple[Callable[[bytearray, Random, Sequence[bytes]], None], ...] = (
    _flip, _flip, _set_extreme, _set_extreme, _cut, _drop, _repeat, _splice,
)  # fmt: skip


def _mend_checksums(file: bytearray) -> None:
    """Without this hardly any damage to a PNG gets past the first look at it."""
    at = 8
    while file.startswith(b"\x89PNG") and at + 12 <= len(file):
        length = int.from_bytes(file[at : at + 4], "big")
        if at + 12 + length > len(file):
            return
        file[at + 8 + length : at + 12 + length] = _crc(bytes(file[at + 4 : at + 8 + length]))
        at += 12 + length
