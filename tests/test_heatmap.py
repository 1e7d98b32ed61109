"""Where the network looked, and how that is drawn over the photo."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from factories import build_tiny_archive_dir
from PIL import Image

from handler.archive import read_arrays
from handler.engine import OpenVinoEngine
from handler.heatmap import Heatmap, class_map
from handler.region import Box


def overlay(heatmap: Heatmap) -> np.ndarray:
    """The overlay's pixels as a browser sees them: [height, width, RGBA]."""
    with Image.open(io.BytesIO(heatmap.overlay())) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGBA"))


def heatmap(grid: object, box: Box, size: tuple[int, int]) -> Heatmap:
    return Heatmap(3, np.float32(grid), box, size)


def whole(size: tuple[int, int]) -> Box:
    return Box(0, 0, *size)


def corner(row: int, column: int, side: int = 7) -> np.ndarray:
    """A grid with one high value."""
    grid = np.zeros((side, side), np.float32)
    grid[row, column] = 5
    return grid


# --- the map ----------------------------------------------------------------------------------


def test_a_maps_mean_is_its_classs_logit(tmp_path: Path) -> None:
    directory = build_tiny_archive_dir(tmp_path)
    [weights] = read_arrays(directory / "classifier.npz", "weights")
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    images[0, ..., 0] = images[1, ..., 2] = 255  # so that the logits are far from 0
    output = OpenVinoEngine(directory / "model.xml").run(images)
    for logits, feature_map in zip(output.logits, output.feature_map, strict=True):
        # The tiny network's last layer has no bias; engines may run it in bfloat16.
        means = [class_map(weights, feature_map, class_id).mean() for class_id in range(4)]
        assert means == pytest.approx(logits.tolist(), abs=0.03)
        assert abs(logits).max() > 3


def test_a_position_of_the_map_is_its_features_times_the_classs_weights() -> None:
    weights = np.array([[9, 9], [2, -1]], np.float16)  # archives hold them in half precision
    features = np.float32([[[1, 2], [3, 4]], [[10, 0], [0, 1]]])
    found = class_map(weights, features, 1)
    assert found.tolist() == [[-8, 4], [6, 7]]
    assert found.dtype == np.float32


@pytest.mark.parametrize(
    ("row", "column", "peak"),
    [(0, 0, (100 + 50, 200 + 25)), (0, 6, (100 + 650, 225)), (3, 2, (100 + 250, 200 + 175))],
)
def test_the_peak_is_told_in_pixels_of_the_photo(
    row: int, column: int, peak: tuple[float, float]
) -> None:
    # Each position of the grid covers 100×50 pixels of the region.
    shown = heatmap(corner(row, column), Box(100, 200, 800, 550), (1000, 1000))
    assert shown.peak == pytest.approx(peak)


# --- the overlay ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size",
    [(4032, 3024), (3024, 4032), (500, 500), (20, 10), (5000, 1), (1, 5000), (1, 1)],
)
def test_the_overlay_has_the_photos_proportions(size: tuple[int, int]) -> None:
    height, width, _ = overlay(heatmap(corner(0, 0), whole(size), size)).shape
    assert 100 <= max(width, height) <= 300, "smooth when it is stretched, and soon sent"
    scale = max(width, height) / max(size)
    assert (width, height) == tuple(max(1, round(scale * side)) for side in size)


@pytest.mark.parametrize("row", [0, 6])
@pytest.mark.parametrize("column", [0, 6])
def test_a_peak_is_drawn_in_its_own_corner(row: int, column: int) -> None:
    opacity = overlay(heatmap(corner(row, column), whole((640, 480)), (640, 480)))[..., 3]
    y, x = np.unravel_index(opacity.argmax(), opacity.shape)
    height, width = opacity.shape
    assert (y > height / 2, x > width / 2) == (row > 3, column > 3)
    assert opacity.max() > 150, "well visible"
    assert opacity.max() < 255, "and the photo below it still is"
    far_corner = opacity[0 if row else -1, 0 if column else -1]
    assert far_corner == 0


def test_the_peak_is_red_and_its_surroundings_yellow() -> None:
    pixels = overlay(heatmap(corner(3, 3), whole((700, 700)), (700, 700)))
    red, green, blue, _ = pixels[len(pixels) // 2, len(pixels) // 2].tolist()
    assert red > 200
    assert max(green, blue) < 50
    faint = pixels[(pixels[..., 3] > 0) & (pixels[..., 3] < 60)]
    assert faint[:, :2].min() > 180
    assert faint[:, 2].max() < 50


def test_outside_the_region_the_overlay_is_transparent() -> None:
    # The right half, of which every position speaks for the class.
    opacity = overlay(heatmap(np.ones((7, 7)), Box(320, 0, 640, 480), (640, 480)))[..., 3]
    middle = opacity.shape[1] // 2
    assert opacity[:, :middle].max() == 0
    assert opacity[:, middle:].min() > 150


@pytest.mark.parametrize(
    ("box", "size"),
    [
        (Box(2000, 1500, 2001, 1501), (4000, 3000)),
        (Box(0, 0, 1, 1), (4000, 3000)),
        (Box(3999, 2999, 4000, 3000), (4000, 3000)),
        (Box(3999, 0, 4000, 3000), (4000, 3000)),
        (Box(0, 4999, 1, 5000), (1, 5000)),
        (Box(4999, 0, 5000, 1), (5000, 1)),
    ],
)
def test_a_region_of_a_pixel_is_a_visible_dot(box: Box, size: tuple[int, int]) -> None:
    pixels = overlay(heatmap(np.ones((7, 7)), box, size))
    height, width, _ = pixels.shape
    visible = np.argwhere(pixels[..., 3] > 150)
    assert 1 <= len(visible) <= max(width, height)
    y, x = visible[0]
    assert abs(y - box.top * height / size[1]) <= 1
    assert abs(x - box.left * width / size[0]) <= 1


@pytest.mark.parametrize("value", [0, -3, -1e30])
def test_where_nothing_spoke_for_the_class_nothing_is_drawn(value: float) -> None:
    grid = np.full((7, 7), value)
    assert overlay(heatmap(grid, whole((640, 480)), (640, 480)))[..., 3].max() == 0


def test_what_speaks_against_the_class_is_not_drawn() -> None:
    grid = np.full((7, 7), -5)
    grid[:, :3] = 5
    opacity = overlay(heatmap(grid, whole((700, 700)), (700, 700)))[..., 3]
    seventh = opacity.shape[1] // 7
    assert opacity[:, : 2 * seventh].min() > 150
    assert opacity[:, 4 * seventh :].max() == 0


def test_the_strength_is_relative_to_the_peak() -> None:
    grid = np.random.default_rng(0).normal(size=(7, 7))
    faint = overlay(heatmap(grid, whole((64, 48)), (64, 48)))
    strong = overlay(heatmap(1000 * grid, whole((64, 48)), (64, 48)))
    assert abs(faint.astype(int) - strong).max() <= 3


# --- as JSON ----------------------------------------------------------------------------------


def test_the_json_holds_the_grids_rows_and_the_overlay() -> None:
    shown = heatmap([[1, -2.00049], [1 / 3, 0]], Box(0, 0, 30, 20), (60, 40))
    told = json.loads(json.dumps(shown.to_json()))
    assert told["class_id"] == 3
    assert told["grid"] == [[1, -2], [0.333, 0]]
    assert base64.b64decode(told["png"], validate=True) == shown.overlay()
    assert set(told) == {"class_id", "grid", "png"}


def test_the_overlay_is_small_enough_to_travel_in_the_answer() -> None:
    busy = np.random.default_rng(0).normal(size=(7, 7))
    assert len(heatmap(busy, whole((4000, 4000)), (4000, 4000)).overlay()) < 30_000
