"""What is known of a photo before its pixels are decoded, for every format alike."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

from pi_heif import HeifImageFile
from PIL import Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from handler.containers import JpegFile, PngFile
from handler.formats import Format
from handler.heic import coded_pixels
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
        pixels: how many the decoder goes over, no fewer than those of `size`.
        bytes_per_pixel: memory that decoding takes, as measured, whatever the reduction.
        reduced_bytes_per_pixel: what it takes on top for each pixel that comes out.
    """

    size: tuple[int, int]
    orientation: int
    icc_profile: bytes | None
    is_animated: bool
    pixels: int
    bytes_per_pixel: int
    reduced_bytes_per_pixel: int
    _open: Callable[[int], Image.Image]

    def open(self, scale: int) -> Image.Image:
        """Open the image, not decoded yet, for use at 1/1, 1/2, 1/4 or 1/8 of its size.

        Raises:
            ValueError: its decoder reads another size out of the file than was read here, and what
                that takes was not looked at.
            Exception: of nearly any kind: it is damaged.
        """
        image = self._open(scale)
        if image.size != self.size:
            raise ValueError(f"{image.size} for the decoder, {self.size} in the header")
        if scale > 1:  # a JPEG's decoder itself leaves out pixels, a HEIC's may have a thumbnail
            image.draft(None, (self.size[0] // scale, self.size[1] // scale))
        return image


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
        return JpegImagePlugin.JpegImageFile(io.BytesIO(jpeg.pixels(scale)))

    width, height = jpeg.size
    return PhotoHeader(
        size=jpeg.size,
        orientation=jpeg.orientation,
        icc_profile=jpeg.icc_profile,
        is_animated=False,
        pixels=width * height,
        bytes_per_pixel=6 if jpeg.is_multi_scan else 0,  # coefficients
        reduced_bytes_per_pixel=4,
        _open=open_image,
    )


def _read_png(data: bytes | bytearray) -> PhotoHeader:
    png = PngFile.read(data)

    def open_image(_scale: int) -> Image.Image:
        return PngImagePlugin.PngImageFile(io.BytesIO(png.pixels()))

    width, height = png.size
    return PhotoHeader(
        size=png.size,
        orientation=png.orientation,
        icc_profile=png.icc_profile,
        is_animated=png.is_animated,
        pixels=width * height,
        bytes_per_pixel=4,
        reduced_bytes_per_pixel=0,
        _open=open_image,
    )


def _read_webp(data: bytes | bytearray) -> PhotoHeader:
    def open_image(_scale: int) -> WebPImagePlugin.WebPImageFile:
        return WebPImagePlugin.WebPImageFile(io.BytesIO(data))

    image = open_image(1)
    width, height = image.size
    return PhotoHeader(
        size=image.size,
        orientation=exif_orientation(image.info.get("exif")),
        icc_profile=image.info.get("icc_profile"),
        is_animated=image.is_animated,
        # No frame is bigger: libwebp refuses a file in which one reaches over the canvas.
        pixels=width * height,
        # Two canvases for the frames of an animation, a copy of one, and the image.
        bytes_per_pixel=16,
        reduced_bytes_per_pixel=0,
        _open=open_image,
    )


def _read_heic(data: bytes | bytearray) -> PhotoHeader:
    def open_image(_scale: int) -> Image.Image:
        image: Image.Image = HeifImageFile(io.BytesIO(data))
        return image

    image = open_image(1)
    width, height = image.size
    return PhotoHeader(
        size=image.size,
        orientation=1,  # turned upright by its decoder
        icc_profile=image.info.get("icc_profile"),
        is_animated=False,  # several images in one file are no animation
        pixels=max(width * height, coded_pixels(data)),
        bytes_per_pixel=8,
        reduced_bytes_per_pixel=0,
        _open=open_image,
    )


_READERS: dict[Format, Callable[[bytes | bytearray], PhotoHeader]] = {
    "JPEG": _read_jpeg,
    "PNG": _read_png,
    "WebP": _read_webp,
    "HEIC": _read_heic,
}
