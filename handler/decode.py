"""From the bytes a stranger sent to an upright RGB image, or to an error that says what to do.

Nothing here changes Pillow's global settings, so any number of threads may decode at once.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import pillow_heif
from PIL import ExifTags, Image

from handler.errors import (
    ImageMissingError,
    ImageTooLargeError,
    ImageUnreadableError,
    PhotoError,
    UnsupportedImageTypeError,
)

__all__ = ["MAX_BYTES", "MAX_PIXELS", "DecodedPhoto", "decode_photo"]

MAX_BYTES = 20 * 1024 * 1024
MAX_PIXELS = 100_000_000

# A photo is decoded at no less than this many times the network's size: below that, the resize that
# follows has too few pixels to average and the input differs from what training saw.
_OVERSAMPLING = 2
# A JPEG may repeat its scans without end, and libjpeg goes over every pixel for each: 1 MB keeps a
# core busy for half a minute. Photos have a dozen scans, an embedded preview as many again.
_MAX_JPEG_SCANS = 100
_START_OF_SCAN = b"\xff\xda"

# Shorter sides of less than this share of the network's size get a warning.
_TINY = 0.5

_ACCEPTED = "Send a JPEG, PNG, WebP or HEIC photo."

# Adds HEIF to the formats that Pillow knows; a second call changes nothing.
pillow_heif.register_heif_opener()

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True)
class DecodedPhoto:
    """A photo that can be looked at.

    Attributes:
        image: RGB, 8 bits a channel, upright; a big photo comes at a reduced size.
        warnings: what the sender should know about the photo, in whole sentences.
    """

    image: Image.Image
    warnings: tuple[str, ...] = ()


def decode_photo(data: bytes | bytearray, *, min_side: int) -> DecodedPhoto:
    """Decode one photo.

    Args:
        data: the file as it was sent; its name and declared content type play no part.
        min_side: side of the network's input in pixels. A bigger photo may be decoded at a reduced
            size, but neither side falls under twice this.

    Raises:
        PhotoError: whatever is wrong with `data`; nothing else is ever raised.
    """
    if not data:
        raise ImageMissingError(f"The image is empty. {_ACCEPTED}")
    if len(data) > MAX_BYTES:
        raise ImageTooLargeError(
            f"The photo has more than {MAX_BYTES // 2**20} MB. Send it smaller or more compressed."
        )
    image_format = _sniff_format(data)
    if image_format == "JPEG" and data.count(_START_OF_SCAN) > _MAX_JPEG_SCANS:
        raise ImageUnreadableError(
            f"The JPEG image has more than {_MAX_JPEG_SCANS} scans. Save it as a baseline JPEG."
        )
    try:
        return _decode(data, image_format, min_side)
    except PhotoError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_many_pixels() from error
    # Damaged files make decoders raise nearly anything (struct.error, KeyError, OverflowError, …).
    except Exception as error:
        raise ImageUnreadableError(
            f"The {image_format} image is damaged or incomplete. Send the original file again."
        ) from error


def _decode(data: bytes | bytearray, image_format: str, min_side: int) -> DecodedPhoto:
    enough = _OVERSAMPLING * min_side
    # Only the header is read here: pixels wait for load().
    with Image.open(io.BytesIO(data), formats=[image_format]) as file:
        width, height = file.size
        if width * height > MAX_PIXELS:
            raise _too_many_pixels()
        warnings = _warnings(file, min_side)
        # libjpeg then decodes at 1/2, 1/4 or 1/8 size; other formats ignore it.
        file.draft("RGB", (enough, enough))
        file.load()
        image = _to_8_bit(file)
        factor = min(image.size) // enough
        if factor > 1:
            image = image.reduce(factor)
        image = _to_rgb(image)
        transpose = _UPRIGHT.get(_orientation(file))
        return DecodedPhoto(
            image.transpose(transpose) if transpose is not None else image, warnings
        )


def _warnings(file: Image.Image, min_side: int) -> tuple[str, ...]:
    warnings = []
    # A HEIC or multi-picture JPEG may hold several images too, but its first is the photo.
    if file.format in ("PNG", "WEBP") and getattr(file, "is_animated", False):
        warnings.append("The image is animated: only its first frame was looked at.")
    width, height = file.size
    if min(width, height) < _TINY * min_side:
        warnings.append(
            f"The photo has only {width}×{height} pixels: "
            f"a shorter side of {min_side} or more makes the answer more reliable."
        )
    return tuple(warnings)


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Bring the modes that can't be averaged (16 bits, palette, 1 bit) to ones that can."""
    if image.mode.startswith("I"):
        # Pillow clips 16-bit grey to 255 when converting, which turns most photos white.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        return image if image.mode == "RGBA" else image.convert("RGBA")
    return image.convert("RGB") if image.mode in ("1", "P") else image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGBA":
        # What is see-through was cut out, as in a product shot, which is mostly shown on white; the
        # colours stored under it are arbitrary, often black.
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _orientation(file: Image.Image) -> int:
    """EXIF orientation 1-8; 1 (upright) where the photo does not say."""
    try:
        return int(file.getexif().get(ExifTags.Base.Orientation, 1))
    # Broken metadata is no reason to refuse a photo whose pixels are fine.
    except Exception:
        return 1


def _too_many_pixels() -> ImageTooLargeError:
    return ImageTooLargeError(
        f"The photo has more than {MAX_PIXELS // 10**6} million pixels. Send it smaller."
    )


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


def _sniff_format(data: bytes | bytearray) -> str:
    """Pillow's name of the format that the first bytes announce.

    Raises:
        UnsupportedImageTypeError: they announce none of those that are read.
    """
    head = bytes(data[:256])
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WEBP"
    what = next((name for magic, name in _OTHER_TYPES if head.startswith(magic)), None)
    if head[4:8] == b"ftyp":
        brands = _brands(head)
        if brands & _AVIF_BRANDS:
            what = "an AVIF image"
        elif brands & _HEIC_BRANDS or b"mif1" in brands:
            return "HEIF"
        else:
            what = "a video or another file of the MP4 family"
    raise UnsupportedImageTypeError(
        f"This is {what}, which is not read. {_ACCEPTED}"
        if what
        else f"This is not an image of a type that is read. {_ACCEPTED}"
    )


def _brands(head: bytes) -> set[bytes]:
    """The brands in the `ftyp` box that opens an ISO media file (HEIC, AVIF, MP4)."""
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return {head[8:12], *(head[i : i + 4] for i in range(16, end, 4))}
