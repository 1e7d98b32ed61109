"""A part of a photo, read without the rest."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from benchmarks.hostile_photos import encode, exif
from handler.decode import decode_photo
from handler.errors import InvalidOptionError
from handler.region import Box

FORMATS = ["JPEG", "PNG", "WEBP", "HEIF"]


def picture(width: int, height: int) -> Image.Image:
    """A picture every part of which looks different, and no flip or turn leaves as it was."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([across, down, 255 - across], axis=2).astype(np.uint8))


def difference(image: Image.Image, expected: Image.Image) -> float:
    """Mean over both pictures, brought to one size, in levels of 255."""
    expected = expected.resize(image.size, Image.Resampling.BOX)
    return float(np.abs(np.asarray(image, dtype=float) - np.asarray(expected, dtype=float)).mean())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("scale", [1, 6])
def test_the_box_is_that_of_the_photo_as_it_is_shown(
    image_format: str, orientation: int, scale: int
) -> None:
    stored = picture(120 * scale, 80 * scale)
    data = encode(stored, image_format, exif=exif(orientation))
    shown = decode_photo(data, min_side=1000).image
    box = Box(8 * scale, 16 * scale, 48 * scale, 72 * scale)
    part = decode_photo(data, min_side=20, box=box)
    assert part.box == box
    assert part.size == shown.size
    assert difference(part.image, shown.crop((box.left, box.top, box.right, box.bottom))) < 5


@pytest.mark.parametrize(
    ("image_format", "mode"),
    [
        *[(image_format, "RGB") for image_format in FORMATS],
        *[("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "L"), ("PNG", "P"), ("PNG", "RGBA")],
        *[("WEBP", "RGBA"), ("HEIF", "RGBA")],
    ],
)
def test_a_part_of_a_big_photo_comes_reduced_but_big_enough(image_format: str, mode: str) -> None:
    whole = picture(2000, 1500)
    data = encode(whole.convert(mode), image_format)
    box = Box(500, 250, 1300, 1250)
    image = decode_photo(data, min_side=100, box=box).image
    assert 150 <= min(image.size) <= 400
    assert image.width / image.height == pytest.approx(box.width / box.height, rel=0.02)
    expected = whole.convert(mode).convert("RGB").crop((500, 250, 1300, 1250))
    assert difference(image, expected) < (12 if mode == "P" else 4)


@pytest.mark.parametrize("image_format", FORMATS)
def test_a_small_part_keeps_every_pixel_the_file_has(image_format: str) -> None:
    data = encode(picture(1600, 1200), image_format)
    assert decode_photo(data, min_side=100, box=Box(10, 20, 110, 90)).image.size == (100, 70)


def test_without_a_box_the_box_is_the_whole_upright_photo() -> None:
    decoded = decode_photo(encode(picture(900, 600), "JPEG", exif=exif(6)), min_side=32)
    assert decoded.size == (600, 900)
    assert decoded.box == Box(0, 0, 600, 900)
    assert decoded.image.width < 600


def test_a_box_over_the_edge_is_cut_at_it() -> None:
    data = encode(picture(300, 200), "PNG")
    decoded = decode_photo(data, min_side=100, box=Box(-50, 150, 40, 9_999))
    assert decoded.box == Box(0, 150, 40, 200)
    assert decoded.image.size == (40, 50)


@pytest.mark.parametrize(
    "box", [Box(200, 0, 201, 10), Box(-10, 0, 0, 10), Box(0, 300, 10, 400), Box(0, -9, 10, 0)]
)
def test_a_box_beside_the_photo_is_refused_with_the_photos_size(box: Box) -> None:
    data = encode(picture(300, 200), "JPEG", exif=exif(6))
    with pytest.raises(InvalidOptionError, match="200×300") as error:
        decode_photo(data, min_side=32, box=box)
    assert (error.value.code, error.value.status) == ("invalid_option", 422)


def test_a_tiny_part_gets_a_warning_that_names_its_size() -> None:
    data = encode(picture(1600, 1200), "JPEG")
    warned = decode_photo(data, min_side=224, box=Box(0, 0, 90, 60)).warnings
    assert "90×60" in " ".join(warned)
    assert decode_photo(data, min_side=224, box=Box(0, 0, 400, 300)).warnings == ()


def test_an_empty_box_can_not_be_made() -> None:
    with pytest.raises(ValueError, match="empty"):
        Box(5, 5, 5, 6)
