"""Where the car is, told from maps of features that are drawn by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from handler.errors import ArchiveError
from handler.locator import CarLocator
from handler.region import Box

# The first of two features says "car"; the second nothing.
LOCATOR = CarLocator(np.float32([1, 0]), bias=-6)
VIEW = Box(100, 1000, 100 + 800, 1000 + 400)


def feature_map(*cars: tuple[slice, slice, float], side: int = 8) -> np.ndarray:
    """Features [2, side, side]: car features of this strength at these rows and columns."""
    features = np.zeros((2, side, side), np.float32)
    features[1] = 50
    for rows, columns, strength in cars:
        features[0, rows, columns] = strength
    return features


def close(box: Box | None, left: int, top: int, right: int, bottom: int, within: int) -> bool:
    assert box is not None
    found = np.array([box.left, box.top, box.right, box.bottom])
    return bool((abs(found - (left, top, right, bottom)) <= within).all())


def test_the_score_of_a_position_is_linear_in_its_features() -> None:
    locator = CarLocator(np.float32([2, -1]), bias=0.5)
    features = np.float32([[[1, 2], [3, 4]], [[10, 20], [30, 40]]])
    assert locator.score_map(features).tolist() == [[-7.5, -15.5], [-23.5, -31.5]]


def test_a_car_is_outlined_where_it_is_on_the_photo() -> None:
    # Rows 2 and 3, columns 4 to 6 of 8: of the view's 800×400 pixels, each 100×50.
    box = LOCATOR.find(feature_map((slice(2, 4), slice(4, 7), 12)), VIEW)
    assert close(box, 100 + 400, 1000 + 100, 100 + 700, 1000 + 200, within=50)


def test_a_little_of_what_is_around_the_car_is_in_the_box_too() -> None:
    # So strong that the bar lies half-way between car and surroundings, and the outline between
    # column 3 and 4; the enlarged map's own pixels are 100 of the photo's.
    features = feature_map((slice(0, 8), slice(0, 4), 16))
    box = LOCATOR.find(features, Box(0, 0, 6400, 6400))
    assert close(box, 0, 0, round(3200 * 1.05), 6400, within=60)


def test_of_two_cars_the_one_with_the_greater_sum_is_taken_whole_and_alone() -> None:
    small_but_clear = (slice(0, 2), slice(0, 2), 20)
    big = (slice(4, 8), slice(3, 8), 14)
    box = LOCATOR.find(feature_map(small_but_clear, big), VIEW)
    assert close(box, 100 + 300, 1000 + 200, 900, 1400, within=50)
    clearer = (slice(0, 2), slice(0, 2), 80)
    box = LOCATOR.find(feature_map(clearer, big), VIEW)
    assert close(box, 100, 1000, 100 + 200, 1000 + 100, within=50)


def test_parts_that_touch_at_a_corner_only_are_two() -> None:
    one, other = (slice(0, 3), slice(0, 3), 12), (slice(3, 8), slice(3, 8), 12)
    box = LOCATOR.find(feature_map(one, other, side=8), Box(0, 0, 64, 64))
    assert box is not None
    assert box.left > 8
    assert box.top > 8


def test_where_nothing_looks_like_a_car_there_is_no_box() -> None:
    assert LOCATOR.find(feature_map(), VIEW) is None
    # More likely than not, but not sure.
    assert LOCATOR.find(feature_map((slice(0, 8), slice(0, 8), 7)), VIEW) is None


def test_a_car_that_fills_the_view_is_the_view() -> None:
    everywhere = feature_map((slice(0, 8), slice(0, 8), 12))
    assert LOCATOR.find(everywhere, VIEW) == VIEW


@pytest.mark.parametrize("seed", range(30))
def test_whatever_the_map_the_box_is_in_the_view(seed: int) -> None:
    random = np.random.default_rng(seed)
    features = random.normal(4, 6, (2, *random.integers(1, 9, 2))).astype(np.float32)
    left, top, width, height = map(int, random.integers(1, 50, 4))
    view = Box(left, top, left + width, top + height)
    box = LOCATOR.find(features, view)
    assert box is None or box.clipped(view.right, view.bottom) == box
    assert box is None or (box.left >= view.left and box.top >= view.top)


def test_a_locator_survives_a_round_trip(tmp_path: Path) -> None:
    LOCATOR.write(tmp_path / "car_locator.npz")
    again = CarLocator.read(tmp_path / "car_locator.npz")
    assert again.weights.tolist() == LOCATOR.weights.tolist()
    assert (again.weights.dtype, again.bias) == (np.float32, LOCATOR.bias)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04broken", b"text"])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "car_locator.npz").write_bytes(content)
    with pytest.raises(ArchiveError, match=r"car_locator\.npz"):
        CarLocator.read(tmp_path / "car_locator.npz")


def test_a_file_of_something_else_is_refused_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "car_locator.npz", weights=np.ones(2))
    with pytest.raises(ArchiveError, match=r"car_locator\.npz.*bias"):
        CarLocator.read(tmp_path / "car_locator.npz")
