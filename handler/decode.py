"""From the bytes a stranger sent to an upright RGB image, or to an error that says what to do.

Nothing here changes Pillow's global settings, so any number of threads may decode at once.
"""

from __future__ import annotations

import math
import threading
import time
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
from PIL import Image

from handler.colour import to_srgb
from handler.errors import (
    ImageMissingError,
    ImageTooLargeError,
    ImageUnreadableError,
    InvalidOptionError,
    PhotoError,
    PhotoTimeoutError,
)
from handler.formats import ACCEPTED, Format, sniff_format
from handler.header import read_header
from handler.region import Box

__all__ = ["MAX_BYTES", "MAX_PIXELS", "DecodedPhoto", "OpenPhoto", "decode_photo", "open_photo"]

MAX_BYTES = 20 * 1024 * 1024
MAX_PIXELS = 100_000_000
# As many again may be decoded that nobody sees: how see-through each pixel is, and the parts of a
# HEIC photo's tiles that reach over its edges.
_MAX_DECODED_PIXELS = 2 * MAX_PIXELS

# A photo is decoded at no less than this many times the network's size, so that the resize that
# follows still has pixels to average. Measured: from 1.25 on, logits of 12-megapixel JPEGs differ
# from those of full decoding no more than between two such factors, and as much as between two
# qualities of JPEG; at 1.5 the usual 4032×3024 comes at 1/8.
_OVERSAMPLING = 1.5

# Shorter sides of less than this share of the network's size get a warning.
_TINY = 0.5

# Photos that take more than this are decoded one at a time, whatever the number of threads. The
# worst that is allowed, a WebP image of 100 megapixels, takes 1.6 GB.
_HEAVY_BYTES = 256 * 2**20
_one_heavy_photo = threading.Lock()
# Pixels that are converted at a time where a whole photo of another mode would take its size again.
_STRIP_PIXELS = 2**20

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
    """A photo, or a part of one, that can be looked at.

    Attributes:
        image: RGB, 8 bits a channel, upright; of a big photo at a reduced size.
        size: width and height of the whole upright photo in pixels.
        box: the part of the photo that `image` shows.
        warnings: what the sender should know about the photo, in whole sentences.
    """

    image: Image.Image
    size: tuple[int, int]
    box: Box
    warnings: tuple[str, ...] = ()


def decode_photo(data: bytes | bytearray, *, min_side: int, box: Box | None = None) -> DecodedPhoto:
    """Decode one photo, or a part of it.

    Args:
        data: the file as it was sent; its name and declared content type play no part.
        min_side: side of the network's input in pixels. What is bigger may be decoded at a reduced
            size, but neither side falls under 1.5 times this.
        box: the part to return, in pixels of the upright photo, clipped to it; None for the whole.

    Raises:
        PhotoError: whatever is wrong with `data` or `box`; nothing else is ever raised.
    """
    return open_photo(data, min_side=min_side, box=box).decode()


def open_photo(data: bytes | bytearray, *, min_side: int, box: Box | None = None) -> OpenPhoto:
    """Read a photo's header only; arguments and errors are those of `decode_photo`."""
    if not data:
        raise ImageMissingError(f"The image is empty. {ACCEPTED}")
    if len(data) > MAX_BYTES:
        raise ImageTooLargeError(
            f"The photo has more than {MAX_BYTES // 2**20} MB. Send it smaller or more compressed."
        )
    image_format = sniff_format(data)
    with _Unreadable(image_format):
        return OpenPhoto(data, image_format, min_side, box)


class OpenPhoto:
    """A photo whose header was read.

    Attributes:
        size: width and height of the whole upright photo in pixels.
        box: the part of it that will be decoded.
        is_heavy: whether decoding takes so much memory that this photo waits for others like it,
            and lighter ones should go first.
    """

    def __init__(
        self, data: bytes | bytearray, image_format: Format, min_side: int, box: Box | None
    ) -> None:
        header = read_header(data, image_format)
        _refuse_too_many_pixels(header.size)
        if header.pixels > _MAX_DECODED_PIXELS:
            raise _too_many_pixels()
        self._format: Format = image_format
        self._header = header
        self._min_side = min_side
        width, height = header.size
        self.size = (height, width) if header.orientation >= 5 else (width, height)
        self.box = _clip(box, self.size)
        self._warnings = self._find_warnings(whole=box is None)
        shrink = self._shrink(self.box)
        self._scale = next((scale for scale in (8, 4, 2) if scale <= shrink), 1)
        per_pixel = header.bytes_per_pixel + header.reduced_bytes_per_pixel / self._scale**2
        self.is_heavy = header.pixels * per_pixel > _HEAVY_BYTES

    def decode(self, deadline: float = math.inf) -> DecodedPhoto:
        """Decode it.

        Args:
            deadline: `time.monotonic()` at which it is given up if its turn has not come by then.

        Raises:
            PhotoTimeoutError: the deadline has passed, maybe while it waited for other heavy ones.
            PhotoError: its pixels can't be read.
        """
        with _Unreadable(self._format), _one_heavy_photo if self.is_heavy else nullcontext():
            if time.monotonic() > deadline:
                raise PhotoTimeoutError(
                    "The photos sent at the same time took too long to decode. Send this one "
                    "again, smaller if it is a very large one."
                )
            return DecodedPhoto(self._upright_rgb(), self.size, self.box, self._warnings)

    def _upright_rgb(self) -> Image.Image:
        header = self._header
        with header.open(self._scale) as file:
            file.load()
            _refuse_too_many_pixels(file.size)  # a HEIC's may change while it is decoded
            area = self.box.before_turning(*self.size, header.orientation)
            area = area.scaled(header.size, file.size)
            image = _part(file, area, max(1, int(self._shrink(area))))
        image = to_srgb(image, header.icc_profile)
        transpose = _UPRIGHT.get(header.orientation)
        return image if transpose is None else image.transpose(transpose)

    def _shrink(self, area: Box) -> float:
        """How many times smaller the network may see a part of a photo."""
        return min(area.width, area.height) / (_OVERSAMPLING * self._min_side)

    def _find_warnings(self, *, whole: bool) -> tuple[str, ...]:
        warnings = []
        if self._header.is_animated:
            warnings.append("The image is animated: only its first frame was looked at.")
        if min(self.box.width, self.box.height) < _TINY * self._min_side:
            warnings.append(
                f"The {'photo' if whole else 'part of the photo that was asked for'} has only "
                f"{self.box.width}×{self.box.height} pixels: a shorter side of {self._min_side} "
                "or more makes the answer more reliable."
            )
        return tuple(warnings)


def _clip(box: Box | None, size: tuple[int, int]) -> Box:
    if box is None:
        return Box(0, 0, *size)
    clipped = box.clipped(*size)
    if clipped is None:
        raise InvalidOptionError(
            f"The box lies outside the photo, which has {size[0]}×{size[1]} pixels (as it is shown "
            "upright)."
        )
    return clipped


def _part(image: Image.Image, area: Box, factor: int) -> Image.Image:
    """A part of an image of any mode as RGB or CMYK, each side divided by `factor`."""
    corners = (area.left, area.top, area.right, area.bottom)
    if factor == 1:
        is_whole = corners == (0, 0, *image.size)
        return _flat(image if is_whole else image.crop(corners))
    if image.mode in ("RGB", "CMYK", "L") and not image.has_transparency_data:
        return _flat(image.reduce(factor, corners))
    size = (-(-area.width // factor), -(-area.height // factor))
    reduced = Image.new("RGB", size)
    rows = factor * max(1, _STRIP_PIXELS // (factor * area.width))
    for top in range(area.top, area.bottom, rows):
        bottom = min(top + rows, area.bottom)
        strip = _flat(image.crop((area.left, top, area.right, bottom)))
        reduced.paste(strip.reduce(factor), (0, (top - area.top) // factor))
    return reduced


def _flat(image: Image.Image) -> Image.Image:
    """RGB or CMYK of an image of any mode."""
    if image.mode.startswith("I"):
        # Pillow clips 16-bit grey to 255 when converting, which turns most photos white.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        # What is see-through was cut out, as in a product shot, which is mostly shown on white; the
        # colours stored under it are arbitrary, often black.
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode in ("RGB", "CMYK") else image.convert("RGB")


def _refuse_too_many_pixels(size: tuple[int, int]) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise _too_many_pixels()


def _too_many_pixels() -> ImageTooLargeError:
    return ImageTooLargeError(
        f"The photo has more than {MAX_PIXELS // 10**6} million pixels. Send it smaller."
    )


class _Unreadable:
    """Turns whatever a decoder raises within its `with` block into a `PhotoError`."""

    def __init__(self, image_format: Format) -> None:
        self._format = image_format

    def __enter__(self) -> None:
        pass

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, Image.DecompressionBombError):
            raise _too_many_pixels() from error
        # Damaged files make decoders raise nearly anything (struct.error, KeyError, …).
        if isinstance(error, Exception) and not isinstance(error, PhotoError):
            raise ImageUnreadableError(
                f"The {self._format} image is damaged or incomplete. Send the original file again."
            ) from error
