"""What `decode_photo` makes of the files that people and programs send."""

from __future__ import annotations

import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from factories import BLUE, RED, encode, picture
from PIL import ExifTags, Image, ImageFile

from benchmarks.hostile_photos import png
from handler.decode import MAX_BYTES, decode_photo
from handler.errors import (
    ImageMissingError,
    ImageTooLargeError,
    ImageUnreadableError,
    PhotoError,
    UnsupportedImageTypeError,
)


def decode(data: bytes, min_side: int = 32) -> Image.Image:
    image = decode_photo(data, min_side=min_side).image
    assert image.mode == "RGB"
    return image


def mean_colour(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=float).mean(axis=(0, 1))


def photo_like(size: tuple[int, int] = (200, 120)) -> Image.Image:
    """A picture that no flip or turn leaves unchanged: red left, blue right, darker below."""
    width, height = size
    across = np.linspace(0, 1, width)[None, :]
    down = np.linspace(1, 0.5, height)[:, None]
    rgb = np.stack([255 * (1 - across) * down, 60 * down + 0 * across, 255 * across * down], axis=2)
    return Image.fromarray(rgb.astype(np.uint8))


# --- what is read ----------------------------------------------------------------------------


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "HEIF"])
def test_every_accepted_format_is_read_in_its_true_colours(image_format: str) -> None:
    image = decode(encode(picture(RED), image_format))
    assert mean_colour(image) == pytest.approx([255, 0, 0], abs=6)


@pytest.mark.parametrize(
    ("mode", "colour", "image_format", "expected"),
    [
        ("L", 200, "JPEG", [200, 200, 200]),
        ("CMYK", (0, 255, 255, 0), "JPEG", [255, 0, 0]),
        ("YCbCr", (76, 85, 255), "JPEG", [255, 0, 0]),
        ("1", 1, "PNG", [255, 255, 255]),
        ("L", 200, "PNG", [200, 200, 200]),
        ("LA", (200, 255), "PNG", [200, 200, 200]),
        ("I;16", 200 * 257, "PNG", [200, 200, 200]),
        ("RGBA", (255, 0, 0, 255), "PNG", [255, 0, 0]),
        # What is transparent becomes white, whatever colour is stored under it.
        ("RGBA", (0, 0, 0, 0), "PNG", [255, 255, 255]),
        ("LA", (0, 0), "PNG", [255, 255, 255]),
        ("RGBA", (0, 0, 0, 0), "WEBP", [255, 255, 255]),
        ("RGBA", (255, 0, 0, 128), "PNG", [255, 127, 127]),
    ],
)
def test_every_mode_becomes_rgb_of_the_same_look(
    mode: str, colour: int | tuple[int, ...], image_format: str, expected: list[int]
) -> None:
    image = decode(encode(Image.new(mode, (96, 64), colour), image_format))
    assert mean_colour(image) == pytest.approx(expected, abs=6)


def test_a_palette_image_keeps_its_colours() -> None:
    palette = photo_like().quantize(64)
    assert mean_colour(decode(encode(palette, "PNG"))) == pytest.approx(
        mean_colour(photo_like()), abs=4
    )


def test_a_transparent_palette_colour_becomes_white() -> None:
    palette = Image.new("P", (96, 64), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.paste(1, (0, 0, 48, 64))
    pixels = np.asarray(decode(encode(palette, "PNG", transparency=0)))
    assert pixels[0, 0].tolist() == [255, 0, 0]
    assert pixels[0, -1].tolist() == [255, 255, 255]


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_a_transparent_key_colour_becomes_white(mode: str) -> None:
    image = Image.new(mode, (96, 64), 0)
    key = (0, 0, 0) if mode == "RGB" else 0
    assert mean_colour(decode(encode(image, "PNG", transparency=key))) == pytest.approx([255] * 3)


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 96).astype(np.uint16)
    image = Image.fromarray(np.tile(ramp, (64, 1)))
    row = np.asarray(decode(encode(image, "PNG")))[0, :, 0]
    assert row.tolist() == (ramp >> 8).tolist()


def test_16_bit_colour_is_scaled_not_clipped() -> None:
    # Pillow can't write 16-bit RGB, so the file is put together by hand.
    pixel = struct.pack(">HHH", 200 * 257, 100 * 257, 0)
    rows = zlib.compress((b"\0" + pixel * 64) * 64)
    header = struct.pack(">IIBBBBB", 64, 64, 16, 2, 0, 0, 0)
    image = decode(png((b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")))
    assert mean_colour(image) == pytest.approx([200, 100, 0], abs=1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_the_exif_orientation_is_applied(image_format: str, orientation: int) -> None:
    # How the upright picture must be stored so that this orientation shows it upright.
    stored_as = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    upright = photo_like()
    stored = upright if stored_as is None else upright.transpose(stored_as)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image = decode(encode(stored, image_format, exif=exif), min_side=60)
    assert image.size == upright.size
    difference = np.asarray(image, dtype=float) - np.asarray(upright, dtype=float)
    assert np.abs(difference).mean() < 6


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0garbage",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0",
        # One entry: the orientation, as the text "abc".
        b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHI4sI", 1, 0x0112, 2, 4, b"abc\0", 0),
    ],
)
def test_broken_metadata_does_not_cost_the_photo(exif: bytes) -> None:
    assert decode(encode(picture(RED), "JPEG", exif=exif)).size == (96, 64)


@pytest.mark.parametrize("orientation", [77, 0])
def test_an_impossible_orientation_is_ignored(orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    assert decode(encode(picture(RED), "JPEG", exif=exif)).size == (96, 64)


def test_every_real_photo_is_read_without_a_warning(cars_data: Path) -> None:
    photos = sorted((cars_data / "photos").glob("*.jpg"))
    assert photos
    for path in photos:
        decoded = decode_photo(path.read_bytes(), min_side=224)
        assert decoded.warnings == (), path
        assert min(decoded.image.size) >= 112, path


# --- warnings --------------------------------------------------------------------------------


@pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
def test_of_an_animation_the_first_frame_is_read_with_a_warning(image_format: str) -> None:
    data = encode(
        picture(RED), image_format, save_all=True, append_images=[picture(BLUE)], duration=100
    )
    decoded = decode_photo(data, min_side=32)
    assert mean_colour(decoded.image) == pytest.approx([255, 0, 0], abs=6)
    assert "animated" in " ".join(decoded.warnings)


def test_a_tiny_photo_gets_a_warning_that_names_its_size() -> None:
    decoded = decode_photo(encode(picture(RED, (90, 60))), min_side=224)
    assert "90×60" in " ".join(decoded.warnings)


def test_an_ordinary_photo_gets_no_warning() -> None:
    assert decode_photo(encode(picture(RED, (640, 480))), min_side=224).warnings == ()


def test_a_big_photo_is_judged_by_its_own_size_not_the_reduced_one() -> None:
    assert decode_photo(encode(picture(RED, (1600, 1200))), min_side=32).warnings == ()


# --- size ------------------------------------------------------------------------------------


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "size", [(4000, 3000), (3000, 500), (450, 3000), (672, 700), (336, 336), (300, 200)]
)
def test_a_big_photo_comes_smaller_but_keeps_half_again_what_the_network_needs(
    size: tuple[int, int], image_format: str
) -> None:
    image = decode(encode(picture(RED, size), image_format), min_side=224)
    assert min(image.size) >= min(336, *size)
    assert min(image.size) < 2 * 336
    assert image.width / image.height == pytest.approx(size[0] / size[1], rel=0.02)


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (400, 1), (1, 5000), (5000, 2), (2, 2)])
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_slivers_are_read(size: tuple[int, int], image_format: str) -> None:
    assert decode(encode(picture(RED, size), image_format), min_side=224).size == size


def png_header(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return png((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b""))


@pytest.mark.parametrize(
    ("width", "height"),
    [
        (10_001, 10_000),  # just over our limit, under Pillow's
        (20_000, 20_000),  # over Pillow's own limit
        (2**31 - 1, 2**31 - 1),
    ],
)
def test_a_decompression_bomb_is_refused_before_it_is_decoded(
    width: int, height: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        pytest.fail("the bomb was decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    with pytest.raises(ImageTooLargeError, match="100 million pixels") as error:
        decode(png_header(width, height))
    assert (error.value.code, error.value.status) == ("image_too_large", 413)


def test_more_than_20_mb_is_refused() -> None:
    data = encode(picture(RED))
    assert decode(data + bytes(MAX_BYTES - len(data))).size == (96, 64)
    with pytest.raises(ImageTooLargeError, match="20 MB"):
        decode(data + bytes(MAX_BYTES - len(data) + 1))


# --- what is refused -------------------------------------------------------------------------


def test_an_empty_file_is_a_missing_image() -> None:
    with pytest.raises(ImageMissingError) as error:
        decode(b"")
    assert (error.value.code, error.value.status) == ("image_missing", 400)


MP4 = b"\0\0\0\x18ftypisom\0\0\0\0isommp42"


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"Hello, this is a text file.", "not an image"),
        (b'{"image": "..."}', "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        (b"\0", "not an image"),
        (encode(picture(RED), "GIF"), "GIF"),
        (encode(picture(RED), "TIFF"), "TIFF"),
        (encode(picture(RED), "BMP"), "BMP"),
        (encode(picture(RED), "PDF"), "PDF"),
        (encode(picture(RED), "AVIF"), "AVIF"),
        (MP4, "video"),
    ],
)
def test_other_types_are_refused_with_what_is_accepted(data: bytes, named: str) -> None:
    with pytest.raises(UnsupportedImageTypeError, match=named) as error:
        decode(data)
    assert (error.value.code, error.value.status) == ("unsupported_image_type", 415)
    for accepted in ("JPEG", "PNG", "WebP", "HEIC"):
        assert accepted in error.value.message


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "HEIF"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_a_truncated_image_is_unreadable(image_format: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (120, 200, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), image_format)
    with pytest.raises(ImageUnreadableError, match="damaged or incomplete") as error:
        decode(data[: max(16, int(len(data) * share))])
    assert (error.value.code, error.value.status) == ("image_unreadable", 422)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xe0" + b"nonsense" * 50,
        b"\x89PNG\r\n\x1a\n",
        b"RIFF\0\0\0\0WEBP",
        b"RIFF\0\0\0\0WEBPVP8 nonsense",
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        png_header(0, 10),
        png_header(10, 0),
    ],
)
def test_a_good_beginning_with_nothing_behind_is_unreadable(data: bytes) -> None:
    with pytest.raises(ImageUnreadableError):
        decode(data)


def test_threads_decode_side_by_side_and_pillow_is_left_as_it_was() -> None:
    good, truncated = encode(photo_like()), encode(photo_like())[:900]

    def status(data: bytes) -> int:
        try:
            decode(data)
        except PhotoError as error:
            return error.status
        return 200

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(status, [good, truncated] * 100))
    assert statuses == [200, 422] * 100
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    assert Image.MAX_IMAGE_PIXELS == 89_478_485
