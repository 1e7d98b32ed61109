"""Whatever is sent is answered or refused: soon, in little memory, and without a sound."""

from __future__ import annotations

import gc
import platform
import subprocess
import sys
import time
import tracemalloc
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from random import Random

import numpy as np
import pytest
from factories import BLUE, RED, build_tiny_archive_dir, photo
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import handler.decode
from benchmarks.hostile_photos import (
    Sent,
    bad_files,
    encode,
    endless_scans,
    exif,
    jpeg_segment,
    mutate,
    png_chunk,
    unusual_files,
)
from handler.answer import Answer
from handler.decode import MAX_BYTES, MAX_PIXELS, DecodedPhoto, decode_photo, open_photo
from handler.errors import ImageUnreadableError, PhotoError
from handler.identifier import CarIdentifier

MIN_SIDE = 32


def picture(size: tuple[int, int] = (96, 64)) -> Image.Image:
    """Smooth, so that it survives compression, with some noise, so that files have a body."""
    width, height = size
    across, down = np.meshgrid(np.linspace(0, 220, width), np.linspace(0, 220, height))
    noise = np.random.default_rng(0).integers(0, 35, (height, width, 3))
    return Image.fromarray((np.stack([across, down, 220 - across], 2) + noise).astype(np.uint8))


UNUSUAL = list(unusual_files(picture()))
BAD = list(bad_files(picture()))
SMALL = [file.data for file in UNUSUAL if len(file.data) < 50_000]


@pytest.fixture(autouse=True)
def silent(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Nothing that is sent makes the worker's log grow: not by Python's warnings, not by C."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        yield
    assert [str(warning.message) for warning in warned] == []
    assert "".join(capfd.readouterr()) == ""


@pytest.mark.parametrize("sent", UNUSUAL, ids=lambda sent: sent.name)
def test_unusual_photos_are_read(sent: Sent) -> None:
    decoded = decode_photo(sent.data, min_side=MIN_SIDE)
    assert decoded.image.mode == "RGB"
    assert decoded.size in {(96, 64), (64, 96), (1, 1), (1, 400), (400, 1), (5000, 2)}
    assert np.asarray(decoded.image).any()


@pytest.mark.parametrize("sent", BAD, ids=lambda sent: sent.name)
def test_bad_files_are_refused_with_their_code(sent: Sent) -> None:
    with pytest.raises(PhotoError) as error:
        decode_photo(sent.data, min_side=MIN_SIDE)
    assert error.value.code == sent.code
    assert 20 < len(error.value.message) < 200
    assert error.value.message.endswith(".")


# --- damage --------------------------------------------------------------------------------------

calm = partial(
    settings,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def outcome(data: bytes) -> DecodedPhoto | PhotoError:
    try:
        return decode_photo(data, min_side=MIN_SIDE)
    except PhotoError as error:
        return error


@calm(max_examples=2000)
@given(seed=st.integers(0, 2**32), which=st.integers(0, len(SMALL) - 1))
def test_no_damage_to_a_file_does_more_than_cost_its_answer(seed: int, which: int) -> None:
    start = time.monotonic()
    result = outcome(mutate(SMALL[which], Random(seed), SMALL))
    assert time.monotonic() - start < 10
    if isinstance(result, PhotoError):
        assert 20 < len(result.message) < 200
    else:
        assert result.image.mode == "RGB"
        assert len(result.image.tobytes()) == 3 * result.image.width * result.image.height
        assert result.size[0] * result.size[1] <= MAX_PIXELS


@calm(max_examples=400)
@given(file=st.sampled_from(SMALL), share=st.floats(0, 1, exclude_max=True))
def test_no_cut_through_a_file_does_more_than_cost_its_answer(file: bytes, share: float) -> None:
    result = outcome(file[: int(len(file) * share)])
    assert not isinstance(result, PhotoError) or result.code in {
        "image_missing", "unsupported_image_type", "image_unreadable",
    }  # fmt: skip


@calm(max_examples=300)
@given(
    start=st.sampled_from([b"", *(file[:size] for file in SMALL[::7] for size in (12, 40, 200))]),
    rest=st.binary(max_size=300),
)
def test_no_bytes_behind_a_true_beginning_do_any_harm(start: bytes, rest: bytes) -> None:
    result = outcome(start + rest)
    assert not isinstance(result, PhotoError) or result.status in {400, 413, 415, 422}


@pytest.fixture(scope="module")
def identifier(tmp_path_factory: pytest.TempPathFactory) -> CarIdentifier:
    return CarIdentifier.from_directory(build_tiny_archive_dir(tmp_path_factory.mktemp("tiny")))


def test_good_photos_get_the_answer_beside_bad_ones_that_they_get_alone(
    identifier: CarIdentifier,
) -> None:
    rng = Random(0)
    good = [photo(RED), photo(BLUE)]
    alone = [identifier.identify([data])[0].to_json()["predictions"] for data in good]
    for _ in range(40):
        bad = [mutate(rng.choice(SMALL), rng, SMALL) for _ in range(3)]
        bad += [file.data for file in rng.sample(BAD, 3)]
        batch = [*bad, *good]
        order = rng.sample(range(len(batch)), len(batch))
        results = identifier.identify([batch[index] for index in order])
        for result, index in zip(results, order, strict=True):
            if index >= len(bad):
                assert isinstance(result, Answer)
                assert result.to_json()["predictions"] == alone[index - len(bad)]


def test_bad_photos_leave_nothing_in_memory(identifier: CarIdentifier) -> None:
    batch = [b"text", JPEG[:500], photo(RED)]

    def errors() -> list[object]:
        return [it for it in gc.get_objects() if issubclass(type(it), PhotoError)]

    gc.collect()
    of_others = errors()  # that the test runner keeps
    gc.disable()  # what it would have to find is held until then, with the photos of the batch
    try:
        for _ in range(3):
            identifier.identify(batch)
        # The decoding threads let go of their last results a moment later.
        until = time.monotonic() + 10
        while held := len(errors()) - len(of_others):
            assert time.monotonic() < until, f"{held} errors are held, with their photos"
            time.sleep(0.01)
    finally:
        gc.enable()


# --- files that are made to waste time or memory -------------------------------------------------

JPEG, PNG = encode(picture(), "JPEG"), encode(picture(), "PNG")
PROGRESSIVE = encode(picture(), "JPEG", progressive=True)
EXIF_OF_ITS_OWN_SIZE = b"Exif\0\0II*\0\x08\0\0\0\x00\x10" + b"".join(
    (0x9000 + tag).to_bytes(2, "little")
    + b"\x07\0"
    + (50_000).to_bytes(4, "little")
    + b"\x08\0\0\0"
    for tag in range(0x1000)
)  # 4096 tags, each of which says that all the others are its value
FLOODS = {
    "JPEG comments": JPEG[:2] + jpeg_segment(0xFE, b"") * 4_500_000 + JPEG[2:],
    "JPEG metadata": JPEG[:2] + jpeg_segment(0xE1, bytes(65_000)) * 300 + JPEG[2:],
    "JPEG filling bytes": JPEG[:20] + b"\xff" * 19_000_000 + JPEG[20:],
    "JPEG junk": JPEG[:20] + bytes(19_000_000) + JPEG[20:],
    "JPEG EXIF": JPEG[:2] + jpeg_segment(0xE1, EXIF_OF_ITS_OWN_SIZE) * 200 + JPEG[2:],
    "JPEG scans": endless_scans(PROGRESSIVE, 20_000),
    "PNG chunks": PNG[:33] + png_chunk(b"abCd", b"") * 1_600_000 + PNG[33:],
    "PNG empty pixels": PNG[:33] + png_chunk(b"IDAT", b"") * 1_600_000 + PNG[33:],
    "PNG chunks at the end": PNG[:-12] + png_chunk(b"abCd", b"") * 1_600_000 + PNG[-12:],
    "PNG text": PNG[:33] + png_chunk(b"tEXt", b"a\0" + bytes(60_000)) * 300 + PNG[33:],
}


@pytest.mark.parametrize("name", FLOODS)
def test_twenty_megabytes_of_nothing_cost_little_time(name: str) -> None:
    assert len(FLOODS[name]) <= MAX_BYTES
    start = time.thread_time()  # of this thread alone, however busy the machine is
    result = outcome(FLOODS[name])
    seconds = time.thread_time() - start
    assert isinstance(result, DecodedPhoto) or "more than" in result.message
    assert seconds < 3  # mostly 0.1; Pillow alone: up to ten


@pytest.mark.parametrize("name", FLOODS)
def test_twenty_megabytes_of_nothing_are_copied_once_at_most(name: str) -> None:
    tracemalloc.start()  # which itself takes most of the time
    try:
        outcome(FLOODS[name])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 25_000_000


def test_a_progressive_photo_may_have_a_good_many_scans() -> None:
    size = decode_photo(endless_scans(PROGRESSIVE, 50), min_side=MIN_SIDE).size
    assert size == picture().size
    with pytest.raises(ImageUnreadableError, match="more than 100 scans"):
        decode_photo(endless_scans(PROGRESSIVE, 150), min_side=MIN_SIDE)


def test_a_big_progressive_photo_looks_as_it_does_decoded_in_full() -> None:
    big = encode(picture((1600, 1200)), "JPEG", progressive=True, quality=90)
    small = decode_photo(big, min_side=90).image
    assert small.size == (200, 150)
    expected = picture((1600, 1200)).resize(small.size, Image.Resampling.BOX)
    difference = np.asarray(small, dtype=float) - np.asarray(expected, dtype=float)
    assert np.abs(difference).mean() < 2


@pytest.mark.parametrize("lost", [2, 3, 100, 10_000])
def test_a_big_progressive_photo_without_its_end_is_refused(lost: int) -> None:
    big = encode(picture((1600, 1200)), "JPEG", progressive=True, quality=90)
    with pytest.raises(ImageUnreadableError):
        decode_photo(big[:-lost], min_side=90)


# --- photos that take much memory ----------------------------------------------------------------


def test_a_see_through_photo_is_not_copied_at_full_size() -> None:
    # 24 megapixels, 96 MB as RGBA; it is the strips that Python counts, not Pillow's own memory.
    data = encode(Image.new("RGBA", (6000, 4000), (255, 0, 0, 0)), "PNG", compress_level=1)
    image = decode_photo(data, min_side=224).image
    assert np.asarray(image).min() == 255
    assert min(image.size) < 672


@pytest.mark.parametrize(
    ("image_format", "megapixels", "heavy"),
    [("JPEG", 90, False), ("PNG", 20, False), ("PNG", 90, True), ("WEBP", 12, False),
     ("WEBP", 25, True)],
)  # fmt: skip
def test_photos_that_take_much_memory_are_known_by_their_header(
    image_format: str, megapixels: int, heavy: bool
) -> None:
    side = int((megapixels * 1e6) ** 0.5)
    data = encode(Image.new("L", (side, side)), image_format)
    assert open_photo(data, min_side=224).is_heavy == heavy


def test_heavy_photos_are_decoded_one_at_a_time_and_light_ones_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    under_way: set[int] = set()
    together: list[int] = []
    part = handler.decode._part

    def watched(image: Image.Image, *arguments: object) -> Image.Image:
        if image.width > 1000:
            under_way.add(id(image))
            together.append(len(under_way))
            time.sleep(0.01)
            under_way.discard(id(image))
        return part(image, *arguments)

    monkeypatch.setattr(handler.decode, "_part", watched)
    monkeypatch.setattr(handler.decode, "_HEAVY_BYTES", 4_000_000)
    heavy = encode(picture((1200, 1000)), "PNG")
    broken = heavy[: len(heavy) // 2]  # must leave the door open behind it

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(outcome, [heavy, broken, PNG, JPEG] * 6))
    told = [result.size if isinstance(result, DecodedPhoto) else result.code for result in results]
    assert told == [(1200, 1000), "image_unreadable", (96, 64), (96, 64)] * 6
    assert together == [1] * 6


_PICTURES_COME_AND_GO = """
import gc, pathlib, re, sys
from PIL import Image
from handler.memory import return_freed_memory
if sys.argv[1] == "yes":
    return_freed_memory()
for side in (2500, 3000):  # 25 and 36 MB: glibc takes what it frees as a hint
    Image.new("RGB", (side, side), "red")
pictures, small = [], []
for _ in range(20):
    pictures.append(Image.new("RGB", (1900, 1900), "red"))
    small.append(bytearray(60_000))
del pictures
gc.collect()
status = pathlib.Path("/proc/self/status").read_text()
print(re.search(r"VmRSS:\\s+(\\d+)", status)[1])
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="other C libraries have no such hoard"
)
def test_pictures_that_are_gone_leave_no_memory_behind() -> None:
    with_it, without = (
        int(subprocess.check_output([sys.executable, "-c", _PICTURES_COME_AND_GO, tuned]))
        for tuned in ("yes", "no")
    )
    assert with_it < 80_000  # kB
    assert without > with_it + 100_000


def test_a_photo_that_was_opened_may_be_decoded_again() -> None:
    for image_format in ("JPEG", "PNG", "WEBP", "HEIF"):
        opened = open_photo(encode(picture(), image_format, exif=exif(1)), min_side=MIN_SIDE)
        assert np.array_equal(opened.decode().image, opened.decode().image)
