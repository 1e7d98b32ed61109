"""Photos whose file says what their colours mean."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from colour_profiles import DISPLAY_P3, INKS, NEARLY_SRGB
from PIL import Image

from benchmarks.hostile_photos import encode, png, png_chunk
from handler.decode import decode_photo

# What Display P3 calls (200, 100, 50), in sRGB: a stronger colour, as P3 reaches further.
P3_COLOUR, P3_IN_SRGB = (200, 100, 50), (214, 94, 29)


def colour_of(data: bytes) -> list[int]:
    image = decode_photo(data, min_side=32).image
    assert image.mode == "RGB"
    return np.asarray(image).mean(axis=(0, 1)).tolist()


def photo(image_format: str, profile: bytes | None, mode: str = "RGB") -> bytes:
    colour = (200, 100, 50, 255) if mode == "RGBA" else P3_COLOUR
    options = {"lossless": True} if image_format == "WEBP" else {"quality": 95}
    return encode(Image.new(mode, (96, 64), colour), image_format, icc_profile=profile, **options)


@pytest.mark.parametrize(
    ("image_format", "mode"),
    [("JPEG", "RGB"), ("PNG", "RGB"), ("PNG", "RGBA"), ("WEBP", "RGB"), ("HEIF", "RGB")],
)
def test_a_phones_display_p3_comes_as_srgb(image_format: str, mode: str) -> None:
    colour = colour_of(photo(image_format, DISPLAY_P3, mode))
    assert colour == pytest.approx(P3_IN_SRGB, abs=4)


def test_a_profile_in_several_parts_of_a_jpeg_is_put_together() -> None:
    padded = DISPLAY_P3 + bytes(150_000)  # Pillow writes it as three segments
    assert colour_of(photo("JPEG", padded)) == pytest.approx(P3_IN_SRGB, abs=4)


@pytest.mark.parametrize(
    "profile", [NEARLY_SRGB, b"no profile", DISPLAY_P3[:200], INKS, bytes(128)]
)
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_a_profile_that_says_nothing_new_leaves_the_photo_as_it_is_to_the_bit(
    image_format: str, profile: bytes
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    with_profile, without = (
        decode_photo(encode(Image.fromarray(noise), image_format, icc_profile=icc), min_side=32)
        for icc in (profile, None)
    )
    assert np.array_equal(with_profile.image, without.image)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_a_huge_profile_does_not_cost_the_photo(image_format: str) -> None:
    noise = np.random.default_rng(0).bytes(8 * 2**20)
    assert colour_of(photo(image_format, DISPLAY_P3 + noise)) == pytest.approx(P3_COLOUR, abs=4)


def test_a_packed_bomb_of_a_profile_does_not_cost_the_photo() -> None:
    plain = photo("PNG", None)
    packed = photo("PNG", DISPLAY_P3 + bytes(50 * 2**20))
    assert len(packed) < 100_000
    assert colour_of(packed) == colour_of(plain)


def test_a_png_that_is_said_to_be_srgb_is_not_converted() -> None:
    data = photo("PNG", DISPLAY_P3)
    data = data[:33] + png_chunk(b"sRGB", b"\0") + data[33:]
    assert data.startswith(png())
    assert colour_of(data) == pytest.approx(P3_COLOUR, abs=1)


@pytest.mark.parametrize(("black", "expected"), [(0, 255), (255, 0)])
def test_printing_inks_look_as_their_profile_says(black: int, expected: int) -> None:
    # By rule of thumb, so much yellow, cyan and magenta would be dark with any amount of black.
    inks = Image.new("CMYK", (96, 64), (200, 200, 200, black))
    colour = colour_of(encode(inks, "JPEG", icc_profile=INKS, quality=95))
    assert colour == pytest.approx([expected] * 3, abs=8)


def test_threads_may_share_a_profile() -> None:
    rng = np.random.default_rng(0)
    pictures = [
        Image.fromarray(rng.integers(0, 256, (200, 300, 3), dtype=np.uint8)) for _ in range(4)
    ]
    files = [encode(picture, "PNG", icc_profile=DISPLAY_P3) for picture in pictures] * 25

    def decode(data: bytes) -> bytes:
        return decode_photo(data, min_side=100).image.tobytes()

    one_by_one = [decode(data) for data in files]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(decode, files)) == one_by_one
