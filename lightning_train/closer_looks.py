"""How sure a closer look must be: a part of the photo that the worker chose itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from math import floor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from handler.identifier import CarIdentifier
from handler.known import KnownScore
from lightning_train.data import Sample, load_crop
from lightning_train.evaluation import metrics
from lightning_train.evaluation.evaluate import examine_images
from lightning_train.evaluation.scenes import SCALES
from lightning_train.scenes import compose_scene

__all__ = ["fit_closer_looks"]

_SCENES_OF_A_SCALE = 200
_BATCH = 8

_Image = tuple[Image.Image, int]


def fit_closer_looks(
    identifier: CarIdentifier,
    samples: Sequence[Sample],
    backgrounds: Sequence[Path],
    precision: float,
) -> KnownScore:
    """The identifier's score, stricter by as much as it must be where the worker chose the part.

    At least `precision` of the photos that are then answered `identified`, and of the closer looks
    at composed scenes that are, are right. The photos alone would not do: on few of them the car
    is small. Nor would the scenes: where the car fills the photo, a closer look is rarely right.

    Args:
        identifier: trusts a closer look as much as the first.
        samples: labelled photos that no weight was fitted to, class ids those of the identifier.
        backgrounds: photos without any car; without them no archive looks closer.
        precision: 0…1.

    """
    known = identifier.manifest.known
    if not backgrounds:
        return known
    side = identifier.manifest.preprocessing.size
    photos = _identified(
        identifier, ((load_crop(sample, side), sample.class_id) for sample in samples)
    )
    scenes = _identified(identifier, _scenes(samples, backgrounds, side))
    threshold = max(
        known.threshold,
        # What was identified at the first look stays: it comes first, whatever its score.
        _lowest(np.where(photos.found, photos.scores, np.inf), photos.right, precision),
        _lowest(scenes.scores[scenes.found], scenes.right[scenes.found], precision),
    )
    return replace(known, stricter_if_found=floor((threshold - known.threshold) * 1e4) / 1e4)


@dataclass(frozen=True, slots=True)
class _Identified:
    """Photos that were answered `identified`.

    Attributes:
        scores: [N], known scores.
        right: [N], whether the class is.
        found: [N], whether the worker chose the part.
    """

    scores: NDArray[np.float64]
    right: NDArray[np.bool_]
    found: NDArray[np.bool_]


def _identified(identifier: CarIdentifier, images: Iterator[_Image]) -> _Identified:
    """Look at photos as the worker does, and keep what it identified."""
    known = identifier.manifest.known
    rows = []
    while batch := list(islice(images, _BATCH)):
        looks = examine_images(identifier, [image for image, _ in batch])
        rows += [
            (known.scores(look.logits), look.logits.argmax() == truth, look.view.source == "found")
            for look, (_, truth) in zip(looks, batch, strict=True)
            if look.verdict == "identified"
        ]
    table = np.array(rows, dtype=np.float64).reshape(-1, 3)
    return _Identified(table[:, 0], table[:, 1] == 1, table[:, 2] == 1)


def _scenes(samples: Sequence[Sample], backgrounds: Sequence[Path], side: int) -> Iterator[_Image]:
    generator = np.random.default_rng(0)
    for scale in SCALES:
        if scale == 1:  # there is nothing to look closer at
            continue
        for index in generator.permutation(len(samples))[:_SCENES_OF_A_SCALE]:
            scene = compose_scene(
                samples[int(index)], backgrounds, scale, generator, input_side=side
            )
            yield scene.image, scene.class_id


def _lowest(scores: NDArray[np.float64], right: NDArray[np.bool_], precision: float) -> float:
    """The lowest finite score from which on `precision` is right; above them all if there is none.

    -inf where there is no need for one.
    """
    finite = scores[np.isfinite(scores)]
    if not len(finite) or right.mean() >= precision:
        return -np.inf
    return min(metrics.fit_threshold(scores, right, precision), float(finite.max()) + 1)
