"""Reading the photos of a batch: in order, side by side, and not for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from factories import (
    BLUE,
    GREEN,
    RED,
    TINY_LOCATOR,
    TINY_MANIFEST,
    build_tiny_archive_dir,
    encode,
    photo,
    picture,
    scene,
)
from PIL import Image

from handler.answer import Answer
from handler.decode import OpenPhoto
from handler.errors import PhotoError, PhotoTimeoutError
from handler.identifier import CarIdentifier
from handler.preprocessing import Preprocessing
from handler.reader import PhotoReader, View
from handler.region import Box

PREPROCESSING = TINY_MANIFEST.preprocessing


def read(*photos: bytes, reader: PhotoReader | None = None) -> Sequence[View | PhotoError]:
    reader = reader or PhotoReader(PREPROCESSING)
    wanted = [(data, None) for data in photos]
    return reader.read(wanted, deadline=time.monotonic() + 60)


def colour(view: View | PhotoError) -> list[int]:
    assert isinstance(view, View)
    return view.pixels.mean(axis=(0, 1)).round(-1).clip(max=250).tolist()


def test_photos_come_back_in_their_order_however_long_each_takes() -> None:
    # The first ones take longest.
    sizes = [(3000, 2000), (1500, 1000), (800, 600), (90, 60), (60, 60), (40, 40)]
    colours = [(10 * number, 250 - 10 * number, 100) for number in range(1, 7)]
    photos = [encode(picture(*one), "PNG") for one in zip(colours, sizes, strict=True)]
    views = read(*photos, reader=PhotoReader(PREPROCESSING, threads=4))
    assert [colour(view) for view in views] == [list(one) for one in colours]
    assert [view.size for view in views if isinstance(view, View)] == sizes


def test_a_bad_photo_changes_nothing_for_the_others() -> None:
    red, empty, text, truncated, blue = read(
        photo(RED), b"", b"text", photo(RED)[:300], photo(BLUE)
    )
    assert [colour(red), colour(blue)] == [[250, 0, 0], [0, 0, 250]]
    assert [error.code for error in (empty, text, truncated) if isinstance(error, PhotoError)] == [
        "image_missing",
        "unsupported_image_type",
        "image_unreadable",
    ]


def test_one_photo_and_none_are_batches_too() -> None:
    assert [colour(view) for view in read(photo(GREEN))] == [[0, 250, 0]]
    assert list(read()) == []


def test_the_pixels_are_the_networks_input() -> None:
    [view] = read(encode(scene((RED, (0, 0, 320, 480))), "PNG"))
    assert isinstance(view, View)
    assert (view.pixels.shape, view.pixels.dtype) == ((32, 32, 3), np.uint8)
    assert view.pixels[16, 4].tolist() == [255, 0, 0]
    assert view.pixels[16, 28].tolist() == [128, 128, 128]
    assert (view.box, view.size, view.source) == (Box(0, 0, 640, 480), (640, 480), "photo")
    assert view.decode_ms > 0


def test_a_part_is_read_as_it_was_asked_for_or_found() -> None:
    two = encode(scene((RED, (0, 0, 320, 480)), (BLUE, (320, 0, 640, 480))), "PNG")
    wanted = [(two, Box(330, 10, 9000, 400)), (two, Box(0, 0, 300, 480)), (two, None)]
    deadline = time.monotonic() + 60
    for found, source in ((False, "box"), (True, "found")):
        right, left, all_of_it = PhotoReader(PREPROCESSING).read(
            wanted, deadline=deadline, found=found
        )
        assert isinstance(right, View)
        assert isinstance(left, View)
        assert isinstance(all_of_it, View)
        assert (colour(right), colour(left)) == ([0, 0, 250], [250, 0, 0])
        assert right.box == Box(330, 10, 640, 400)
        assert (right.source, left.source, all_of_it.source) == (source, source, "photo")
        assert right.size == (640, 480)


def test_a_view_of_a_decoded_image_is_what_is_read_from_its_file() -> None:
    image = scene((GREEN, (100, 100, 500, 300)))
    box = Box(50, 60, 450, 400)
    whole, part = View.of(image, PREPROCESSING), View.of(image, PREPROCESSING, box)
    reader, png = PhotoReader(PREPROCESSING), encode(image, "PNG")
    later = time.monotonic() + 60
    [read_whole] = reader.read([(png, None)], deadline=later)
    [read_part] = reader.read([(png, box)], deadline=later, found=True)
    for one, other in ((whole, read_whole), (part, read_part)):
        assert isinstance(other, View)
        # Files are read at a reduced size, which moves edges by a fraction of a pixel.
        assert abs(one.pixels.astype(int) - other.pixels).mean() < 2
        assert (one.box, one.size, one.source) == (other.box, other.size, other.source)


def test_photos_are_read_side_by_side() -> None:
    met = threading.Barrier(3)

    class Meeting(Preprocessing):
        def __call__(self, image: Image.Image) -> np.ndarray:
            met.wait(timeout=10)  # for two others that are being read right now
            return super().__call__(image)

    meeting = Meeting(**PREPROCESSING.to_dict())
    photos = [photo(RED), photo(GREEN), photo(BLUE)] * 2
    views = read(*photos, reader=PhotoReader(meeting, threads=3))
    assert len({tuple(colour(view)) for view in views}) == 3


def test_photos_whose_turn_comes_too_late_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, seconds_per_photo=0.3)
    reader = PhotoReader(PREPROCESSING, threads=1)
    wanted = [(photo(RED), None)] * 6
    first, second, *others = reader.read(wanted, deadline=clock.monotonic() + 0.45)
    assert isinstance(first, View)
    assert first.decode_ms == pytest.approx(300)
    assert isinstance(second, View), "begun in time, it is finished"
    for late in others:
        assert isinstance(late, PhotoTimeoutError)
        assert (late.status, late.code) == (504, "timeout")
        assert "Send this one again" in late.message


class Clock:
    """The worker's clock, on which nothing but decoding a photo takes time: one photo at a time.

    Args:
        monkeypatch: puts it in the place of `time` in the worker.
        seconds_per_photo: how long each takes to decode.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds_per_photo: float) -> None:
        self.now = 0.0
        decode = OpenPhoto._upright_rgb

        def slowly(photo: OpenPhoto) -> Image.Image:
            self.now += seconds_per_photo
            return decode(photo)

        monkeypatch.setattr(OpenPhoto, "_upright_rgb", slowly)
        for module in ("decode", "identifier", "reader"):
            monkeypatch.setattr(f"handler.{module}.time", self)

    def monotonic(self) -> float:
        """Seconds since its making."""
        return self.now


class Door:
    """The one that heavy photos go through one at a time, closed until so many wait before it."""

    def __init__(self, waiting: int) -> None:
        self._all_here = threading.Barrier(waiting)
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._all_here.wait(timeout=60)
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_heavy_photos_are_given_up_while_they_wait_for_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("handler.decode._HEAVY_BYTES", 0)
    monkeypatch.setattr("handler.decode._one_heavy_photo", Door(8))
    clock = Clock(monkeypatch, seconds_per_photo=0.3)
    reader = PhotoReader(PREPROCESSING, threads=8)
    views = reader.read([(photo(RED), None)] * 8, deadline=0.45)
    assert clock.now == pytest.approx(0.6)
    assert sum(isinstance(view, View) for view in views) == 2
    assert {error.code for error in views if isinstance(error, PhotoError)} == {"timeout"}


def test_a_batch_of_slow_photos_is_over_in_time_closer_looks_and_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    directory = build_tiny_archive_dir(tmp_path, locator=TINY_LOCATOR)
    identifier = CarIdentifier.from_directory(directory, threads=1)
    small = encode(scene((BLUE, (320, 240, 480, 360))))
    monkeypatch.setattr("handler.identifier.PATIENCE_S", 0.5)
    clock = Clock(monkeypatch, seconds_per_photo=0.2)
    results = identifier.identify([small] * 8)
    assert clock.now < 0.5 + 0.2
    answers = [result for result in results if isinstance(result, Answer)]
    assert len(answers) == 3
    assert {answer.region.source for answer in answers} == {"photo"}, "seen once is better than not"
    assert {error.code for error in results if isinstance(error, PhotoError)} == {"timeout"}
