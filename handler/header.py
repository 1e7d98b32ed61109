"""What is known of a photo before its pixels are decoded, for every format alike."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

from pi_heif import HeifImageFile
from PIL import Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from handler.containers import JpegFile, PngFile
from handler.formats import Format
from handler.metadata import exif_orientation

__all__ = ["PhotoHeader", "read_header"]


@dataclass(frozen=True, slots=True)
class PhotoHeader:
    """A photo's header.

    Attributes:
        size: width and height in pixels, as stored.
        orientation: EXIF's, 1 to 8: how the stored photo is turned to stand upright.
        icc_profile: the colour profile, if there is one.
        is_animated: whether there is more to the image than what `open` opens.
        bytes_per_pixel: memory that decoding takes, as measured, whatever the reduction.
        reduced_bytes_per_pixel: what it takes on top for each pixel that comes out.
        open: opens the image, not decoded yet, for use at 1/1, 1/2, 1/4 or 1/8 of its size.
    """

    size: tuple[int, int]
    orientation: int
    icc_profile: bytes | None
    is_animated: bool
    bytes_per_pixel: int
    reduced_bytes_per_pixel: int
    open: Callable[[int], Image.Image]


def read_header(data: bytes | bytearray, image_format: Format) -> PhotoHeader:
    """Read a photo's header.

    Raises:
        PhotoError: the photo is made to waste time.
        Exception: of nearly any kind: it is damaged.
    """
    return _READERS[image_format](data)


# Below, Pillow's classes are used and not Image.open, which warns on stderr about every big photo.


def _read_jpeg(data: bytes | bytearray) -> PhotoHeader:
    jpeg = JpegFile.read(data)

    def open_image(scale: int) -> Image.Image:
        image = JpegImagePlugin.JpegImageFile(io.BytesIO(jpeg.pixels(scale)))
        width, height = jpeg.size
        if scale > 1:  # the decoder itself leaves out pixels
            image.draft(None, (width // scale, height // scale))
        return image

    coefficients = 6 if jpeg.is_multi_scan else 0
    return PhotoHeader(
        jpeg.size, jpeg.orientation, jpeg.icc_profile, False, coefficients, 4, open_image
    )


def _read_png(data: bytes | bytearray) -> PhotoHeader:
    png = PngFile.read(data)

    def open_image(_scale: int) -> Image.Image:
        return PngImagePlugin.PngImageFile(io.BytesIO(png.pixels()))

    return PhotoHeader(
        png.size, png.orientation, png.icc_profile, png.is_animated, 4, 0, open_image
    )


def _read_webp(data: bytes | bytearray) -> PhotoHeader:
    def open_image(_scale: int) -> WebPImagePlugin.WebPImageFile:
        return WebPImagePlugin.WebPImageFile(io.BytesIO(data))

    image = open_image(1)
    orientation = exif_orientation(image.info.get("exif"))
    profile = image.info.get("icc_profile")
    # Two canvases for the frames of an animation, a copy of one, and the image.
    return PhotoHeader(image.size, orientation, profile, image.is_animated, 16, 0, open_image)


def _read_heic(data: bytes | bytearray) -> PhotoHeader:
    def open_image(scale: int) -> Image.Image:
        image: Image.Image = HeifImageFile(io.BytesIO(data))
        width, height = image.size
        if scale > 1:  # takes a thumbnail out of the file if there is one of at least this size
            image.draft(None, (width // scale, height // scale))
        return image

    image = open_image(1)
    # Turned upright by its decoder; and several images in one file are no animation.
    return PhotoHeader(image.size, 1, image.info.get("icc_profile"), False, 8, 0, open_image)


_READERS: dict[Format, Callable[[bytes | bytearray], PhotoHeader]] = {
    "JPEG": _read_jpeg,
    "PNG": _read_png,
    "WebP": _read_webp,
    "HEIC": _read_heic,
}
