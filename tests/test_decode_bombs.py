"""Files that announce a small photo and hold a big one: none gets to be decoded as the big one."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from factories import BLUE, RED, encode, photo, picture
from heic_files import ALPHA, DEPTH, Item, build_heic, coded_item, iso_box, tiled_heic
from pi_heif import HeifImageFile
from PIL import Image, ImageFile, WebPImagePlugin

from benchmarks.hostile_photos import png
from handler.decode import decode_photo, open_photo
from handler.errors import ImageTooLargeError, ImageUnreadableError
from handler.heic import coded_pixels


@pytest.fixture
def nothing_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(image: Image.Image) -> None:
        pytest.fail(f"{image.size} was decoded")

    for decoder in (ImageFile.ImageFile, HeifImageFile, WebPImagePlugin.WebPImageFile):
        monkeypatch.setattr(decoder, "load", fail)


# --- PNG -------------------------------------------------------------------------------------


def ihdr(width: int, height: int, colour: int = 0) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)


@pytest.mark.parametrize("kind", [b"IHDR", b"PLTE", b"tRNS"])
def test_of_a_chunk_that_a_png_has_twice_the_first_counts(kind: bytes) -> None:
    pixels = (b"IDAT", zlib.compress(bytes(9 * 8)))
    chunks = [ihdr(8, 8, 3), (b"PLTE", b"\xff\0\0"), (b"tRNS", b"\xff")]
    again = {b"IHDR": ihdr(9000, 9000, 3), b"PLTE": (b"PLTE", b"\0\0\0"), b"tRNS": (b"tRNS", b"\0")}
    decoded = decode_photo(png(*chunks, again[kind], pixels, (b"IEND", b"")), min_side=8)
    assert decoded.image.size == (8, 8)
    assert (np.asarray(decoded.image) == (255, 0, 0)).all()


def test_a_png_of_two_sizes_is_heavy_if_the_size_that_is_decoded_is() -> None:
    pixels = (b"IDAT", zlib.compress(b""))
    small, big = ihdr(64, 64), ihdr(9000, 9000)
    assert open_photo(png(big, small, pixels, (b"IEND", b"")), min_side=64).is_heavy
    assert not open_photo(png(small, big, pixels, (b"IEND", b"")), min_side=64).is_heavy


# --- JPEG ------------------------------------------------------------------------------------


@pytest.mark.parametrize("marker", [b"\xff\xc0", b"\xff\xde"])  # a second frame, a hierarchy
def test_a_jpeg_of_two_sizes_is_refused_before_it_is_decoded(
    marker: bytes, nothing_is_decoded: None
) -> None:
    data = photo(RED)
    start = data.index(b"\xff\xc0")
    end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
    frame = data[start:end]
    big = marker + frame[2:5] + struct.pack(">HH", 9000, 9000) + frame[9:]
    opened = open_photo(data[:end] + big + data[end:], min_side=32)
    with pytest.raises(ImageUnreadableError):
        opened.decode()


# --- WebP ------------------------------------------------------------------------------------


def webp_with(data: bytes, canvas: tuple[int, int], frame: tuple[int, int] | None = None) -> bytes:
    """An animated WebP with other sizes announced for its canvas and, maybe, its frames."""
    file = bytearray(data)

    def announce(place: int, size: tuple[int, int]) -> None:
        for side, at in zip(size, (place, place + 3), strict=True):
            file[at : at + 3] = (side - 1).to_bytes(3, "little")

    announce(file.index(b"VP8X") + 12, canvas)
    at = file.find(b"ANMF")
    while at >= 0 and frame:
        announce(at + 14, frame)
        at = file.find(b"ANMF", at + 1)
    return bytes(file)


def test_a_webp_with_frames_bigger_than_its_canvas_is_refused_before_it_is_decoded(
    nothing_is_decoded: None,
) -> None:
    big = picture(RED, (600, 500))
    moving = encode(big, "WEBP", save_all=True, append_images=[picture(BLUE, (600, 500))])
    see_through = encode(Image.new("RGBA", (600, 500), (9, 9, 9, 99)), "WEBP")
    assert open_photo(webp_with(moving, (600, 500), (600, 500)), min_side=32).size == (600, 500)
    for data in (
        webp_with(moving, (64, 64)),
        webp_with(moving, (64, 64), (64, 64)),
        webp_with(see_through, (64, 64)),
    ):
        with pytest.raises(ImageUnreadableError):
            open_photo(data, min_side=32)


# --- HEIC ------------------------------------------------------------------------------------


def test_a_heic_photo_in_tiles_is_read_whatever_comes_with_it() -> None:
    depth = coded_item((512, 512), DEPTH)
    data = tiled_heic(2, 1, more=[depth], references=[(b"auxl", 4, [1])])
    for file in (data, data + b"and something at the end", data + bytes(99)):
        decoded = decode_photo(file, min_side=1000)
        assert decoded.size == decoded.image.size == (1024, 512)
        assert np.asarray(decoded.image).mean(axis=(0, 1)) == pytest.approx([255, 0, 0], abs=6)
        assert coded_pixels(file) == 1024 * 512


def test_a_heic_image_bigger_than_announced_is_refused() -> None:
    data = bytearray(encode(picture(RED, (1500, 1500)), "HEIF"))
    at = data.index(b"ispe") + 8
    data[at : at + 8] = struct.pack(">II", 64, 64)
    with pytest.raises(ImageUnreadableError):
        decode_photo(data, min_side=32)


COVER = coded_item((9_000, 9_000), ALPHA)


GRID = Item(b"grid", (64, 64), struct.pack(">BBBBHH", 0, 0, 0, 0, 64, 64))


@pytest.mark.parametrize(
    "data",
    [
        tiled_heic(30, 30, announced=(64, 64)),
        tiled_heic(1, 1, announced=(64, 64), tile=(15_000, 15_000)),
        tiled_heic(
            1, 1, more=[coded_item((15_000, 15_000), ALPHA)], references=[(b"auxl", 3, [1])]
        ),
        # Each of them see-through by the next.
        tiled_heic(
            1,
            1,
            more=[COVER] * 3,
            references=[(b"auxl", 3, [1]), (b"auxl", 4, [3]), (b"auxl", 5, [4])],
        ),
        # Four grids of one and the same grid of tiles.
        build_heic(
            [GRID] * 6 + [coded_item((9_000, 9_000))],
            [(b"dimg", 1, [2, 3, 4, 5])]
            + [(b"dimg", number, [6]) for number in (2, 3, 4, 5)]
            + [(b"dimg", 6, [7])],
        ),
    ],
    ids=["tiles", "tile", "alpha", "alpha of alpha", "grids of grids"],
)
def test_a_heic_photo_with_more_to_decode_than_it_announces_is_refused_before_it_is(
    data: bytes, nothing_is_decoded: None
) -> None:
    with pytest.raises(ImageTooLargeError, match="100 million pixels"):
        open_photo(data, min_side=32)


def test_a_heic_photo_is_heavy_by_what_there_is_to_decode() -> None:
    assert open_photo(tiled_heic(12, 12, announced=(64, 64)), min_side=32).is_heavy
    assert not open_photo(tiled_heic(2, 2), min_side=32).is_heavy


def with_more_meta(heic: bytes, box: bytes) -> bytes:
    """A file of ours, which ends with all that it says of its images, with one more box there."""
    at = heic.index(b"meta") - 4
    return heic[:at] + struct.pack(">I", len(heic) - at + len(box)) + heic[at + 4 :] + box


@pytest.mark.parametrize(
    "data",
    [
        build_heic([Item(b"iovl", (64, 64), bytes(22))], [(b"dimg", 1, [1])]),
        build_heic([GRID] * 2, [(b"dimg", 1, [2]), (b"dimg", 2, [1])]),
        with_more_meta(tiled_heic(1, 1), iso_box(b"iref", version=0)),
        tiled_heic(1, 1) + iso_box(b"free") * 20_000,
        tiled_heic(1, 1, references=[(b"cdsc", 2, [1] * 60_000)] * 4),
    ],
    ids=["overlay", "circle", "two of what counts", "boxes", "references"],
)
def test_a_heic_file_made_to_mislead_or_waste_time_is_refused(
    data: bytes, nothing_is_decoded: None
) -> None:
    with pytest.raises(ImageUnreadableError):
        open_photo(data, min_side=32)
    # Not only by libheif.
    with pytest.raises((ImageUnreadableError, ValueError, RecursionError)):
        coded_pixels(data)
