"""Composed scenes, and what is learnt from them about where a car is."""

from __future__ import annotations

import colorsys
from pathlib import Path

import numpy as np
import pytest
from factories import build_tiny_archive_dir
from PIL import Image

from handler.engine import OpenVinoEngine
from handler.preprocessing import Preprocessing
from handler.region import Box
from lightning_train.car_locator import fit_car_locator
from lightning_train.data import Sample
from lightning_train.scenes import Scene, compose_scene

TINY = Preprocessing(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture(scope="module")
def backgrounds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Grey photos of several shapes."""
    folder = tmp_path_factory.mktemp("grey")
    for number, size in enumerate([(300, 200), (200, 300), (64, 64)]):
        Image.new("RGB", size, (90 + 20 * number,) * 3).save(folder / f"{number}.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def cars(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Crops of one bright colour each."""
    folder = tmp_path_factory.mktemp("bright")
    samples = []
    for number in range(6):
        colour = tuple(round(255 * part) for part in colorsys.hsv_to_rgb(number / 6, 1, 1))
        Image.new("RGB", (224, 224), colour).save(folder / f"{number}.png")
        samples.append(Sample(folder / f"{number}.png", number))
    return samples


def saturation(scene: Scene) -> np.ndarray:
    return np.asarray(scene.image.convert("HSV"))[..., 1] > 128


@pytest.mark.parametrize("scale", [0.2, 0.5, 1.0])
def test_the_car_is_where_the_box_says_at_the_size_that_was_asked_for(
    scale: float, cars: list[Sample], backgrounds: list[Path]
) -> None:
    generator = np.random.default_rng(1)
    for sample in cars:
        scene = compose_scene(sample, backgrounds, scale, generator, (640, 480))
        assert scene.image.size == (640, 480)
        assert scene.class_id == sample.class_id
        assert scene.box.width == round(640 * scale)
        assert scene.box.width / scene.box.height == pytest.approx(1.86, rel=0.03)
        rows, columns = np.nonzero(saturation(scene))
        edge = scene.box.width // 40 + 3  # soft
        assert abs(columns.min() - scene.box.left) <= edge
        assert abs(columns.max() + 1 - scene.box.right) <= edge
        assert abs(rows.min() - scene.box.top) <= edge
        assert abs(rows.max() + 1 - scene.box.bottom) <= edge


def test_a_crop_that_is_not_squashed_keeps_its_shape(
    backgrounds: list[Path], tmp_path: Path
) -> None:
    Image.new("RGB", (300, 100), "red").save(tmp_path / "long.png")
    sample = Sample(tmp_path / "long.png", 0)
    scene = compose_scene(sample, backgrounds, 0.5, np.random.default_rng(0), (640, 480))
    assert (scene.box.width, scene.box.height) == (320, 107)


def test_the_same_seed_composes_the_same_scene(cars: list[Sample], backgrounds: list[Path]) -> None:
    one, other, different = (
        compose_scene(cars[0], backgrounds, 0.4, np.random.default_rng(seed), (320, 240))
        for seed in (3, 3, 4)
    )
    assert one.box == other.box
    assert one.image.tobytes() == other.image.tobytes()
    assert one.box != different.box


def test_a_locator_fitted_on_scenes_finds_cars_on_others(
    cars: list[Sample], backgrounds: list[Path], tmp_path: Path
) -> None:
    # The tiny network's features are colours: four saturated ones tell what the two others are.
    engine = OpenVinoEngine(build_tiny_archive_dir(tmp_path) / "model.xml", 1)
    reds = [sample for sample in cars if sample.class_id in (0, 1, 5)]
    locator = fit_car_locator(engine, TINY, reds, backgrounds, scenes=60)
    generator = np.random.default_rng(9)
    for _ in range(10):
        scene = compose_scene(reds[0], backgrounds, 0.6, generator, (640, 480))
        output = engine.run(np.stack([TINY(scene.image)]))
        found = locator.find(output.feature_map[0], Box(0, 0, 640, 480))
        assert found is not None
        middle = (found.left + found.right) / 2, (found.top + found.bottom) / 2
        assert scene.box.left < middle[0] < scene.box.right
        assert scene.box.top < middle[1] < scene.box.bottom
    nothing = engine.run(np.full((1, 32, 32, 3), 110, np.uint8))
    assert locator.find(nothing.feature_map[0], Box(0, 0, 640, 480)) is None
