"""Fit the map that says where on a scene the car is (`handler.locator`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from handler.engine import Engine
from handler.locator import CarLocator
from handler.preprocessing import Preprocessing
from lightning_train.data import Sample
from lightning_train.linear_probe import fit_logistic
from lightning_train.scenes import Scene, compose_scene

__all__ = ["fit_car_locator"]

_SIZE = (640, 480)
_BATCH = 8
# Positions taken of each scene, of the car and of the surroundings each.
_POSITIONS = 8
# Share of a position that the car covers: less is surroundings, more is car.
_SURROUNDINGS, _CAR = 0.1, 0.6


def fit_car_locator(
    engine: Engine,
    preprocessing: Preprocessing,
    cars: Sequence[Sample],
    backgrounds: Sequence[Path],
    scenes: int,
) -> CarLocator:
    """Fit it to scenes in which a car fills a fifth of the width or more.

    Args:
        engine: gives the features.
        preprocessing: the engine's.
        cars: training photos.
        backgrounds: photos of anything else.
        scenes: how many to compose.
    """
    generator = np.random.default_rng(0)
    features: list[NDArray[np.float32]] = []
    is_car: list[NDArray[np.bool_]] = []
    for first in range(0, scenes, _BATCH):
        batch = [
            compose_scene(
                cars[int(generator.integers(len(cars)))],
                backgrounds,
                generator.uniform(0.2, 1.0),
                generator,
                _SIZE,
                preprocessing.size,
            )
            for _ in range(min(_BATCH, scenes - first))
        ]
        output = engine.run(np.stack([preprocessing(scene.image) for scene in batch]))
        for scene, feature_map in zip(batch, output.feature_map, strict=True):
            covered = _covered(scene, feature_map.shape[1:]).ravel()
            by_position = feature_map.reshape(len(feature_map), -1).T
            for side in (covered > _CAR, covered < _SURROUNDINGS):
                positions = generator.permutation(np.flatnonzero(side))[:_POSITIONS]
                features.append(by_position[positions])
                is_car.append(covered[positions] > _CAR)
    weights, bias = fit_logistic(np.concatenate(features), np.concatenate(is_car), decay=0.003)
    return CarLocator(weights, bias)


def _covered(scene: Scene, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Share of each position [h, w] that the car covers."""
    rows = _overlaps(scene.box.top, scene.box.bottom, scene.image.height, shape[0])
    columns = _overlaps(scene.box.left, scene.box.right, scene.image.width, shape[1])
    return np.outer(rows, columns)


def _overlaps(start: int, end: int, length: int, parts: int) -> NDArray[np.float64]:
    """Share of each of the equal parts of a length that start…end covers."""
    edges = np.linspace(0, length, parts + 1)
    covered = np.minimum(edges[1:], end) - np.maximum(edges[:-1], start)
    result: NDArray[np.float64] = covered.clip(min=0) * parts / length
    return result
