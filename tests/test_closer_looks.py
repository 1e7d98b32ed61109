"""A closer look has to be surer, by as much as its mistakes on held-out photos ask for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from factories import (
    BLUE,
    GREY,
    RED,
    TINY_LOCATOR,
    TINY_MANIFEST,
    build_tiny_archive_dir,
    picture,
    scene,
)
from PIL import Image

from handler.identifier import CarIdentifier
from handler.known import KnownScore
from lightning_train.closer_looks import fit_closer_looks
from lightning_train.cross_fitting import cross_fitted
from lightning_train.data import Sample, load_crop
from lightning_train.evaluation.evaluate import examine_images, photo_scores

AUDI, ASTON_MARTIN, BMW = 0, 1, 2
PALE_RED = (190, 70, 70)
SMALL = (320, 240, 480, 360)


@pytest.fixture(autouse=True)
def tiny_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos are read hardly larger than the tiny network's input, and their parts are smaller."""
    monkeypatch.setattr("handler.examiner._MIN_SIDE", 8)


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Callable[[KnownScore], CarIdentifier]:
    """The tiny network, with another operating point."""
    directory = build_tiny_archive_dir(tmp_path_factory.mktemp("tiny"), locator=TINY_LOCATOR)

    def with_point(known: KnownScore) -> CarIdentifier:
        manifest = replace(TINY_MANIFEST, known=known, temperature=known.temperature)
        manifest.write(directory / "model.json")
        return CarIdentifier.from_directory(directory)

    return with_point


@pytest.fixture
def samples_of(tmp_path: Path) -> Callable[[Image.Image, int, int], list[Sample]]:
    """So many photos, each the same picture, that are said to show that class."""

    def write(image: Image.Image, class_id: int, count: int) -> list[Sample]:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.png"
        image.save(path)
        return [Sample(path, class_id)] * count

    return write


@pytest.fixture
def backgrounds(tmp_path: Path) -> list[Path]:
    path = tmp_path / "background.png"
    picture(GREY, (640, 480)).save(path)
    return [path]


def test_it_is_trusted_from_where_enough_of_the_answers_are_right(
    worker: Callable[[KnownScore], CarIdentifier],
    samples_of: Callable[[Image.Image, int, int], list[Sample]],
    backgrounds: list[Path],
) -> None:
    samples = [
        *samples_of(picture(RED), AUDI, 30),
        *samples_of(scene((RED, SMALL)), AUDI, 10),
        *samples_of(scene((PALE_RED, SMALL)), BMW, 5),
    ]
    identifier = worker(TINY_MANIFEST.known)
    before = photo_scores(identifier, samples, "before").verdicts
    assert before is not None
    assert before.tolist() == ["identified"] * 45, "and five of them are wrong"
    strict = worker(fit_closer_looks(identifier, samples, backgrounds, precision=0.95))
    after = photo_scores(strict, samples, "after").verdicts
    assert after is not None
    assert after.tolist() == ["identified"] * 40 + ["uncertain"] * 5
    # Of those that are left, one in nine may be wrong.
    known = TINY_MANIFEST.known
    assert fit_closer_looks(identifier, samples, backgrounds, precision=0.88) == known


def test_scenes_of_the_photos_count_where_no_photo_has_a_small_car(
    worker: Callable[[KnownScore], CarIdentifier],
    samples_of: Callable[[Image.Image, int, int], list[Sample]],
    backgrounds: list[Path],
) -> None:
    """Wrong at the first look and in scenes: only the latter can be helped here."""
    right, wrong = samples_of(picture(RED), AUDI, 20), samples_of(picture(BLUE), AUDI, 5)
    identifier = worker(TINY_MANIFEST.known)
    known = TINY_MANIFEST.known
    assert fit_closer_looks(identifier, right, backgrounds, precision=0.95) == known
    strict = fit_closer_looks(identifier, right + wrong, backgrounds, precision=0.95)
    assert strict.stricter_if_found > 0


def test_without_backgrounds_nothing_looks_closer(
    worker: Callable[[KnownScore], CarIdentifier],
    samples_of: Callable[[Image.Image, int, int], list[Sample]],
) -> None:
    samples = samples_of(scene((PALE_RED, SMALL)), BMW, 5)
    known = TINY_MANIFEST.known
    assert fit_closer_looks(worker(known), samples, [], precision=0.95) == known


class TestCrossFitted:
    def test_each_half_is_answered_as_the_other_one_says(
        self,
        worker: Callable[[KnownScore], CarIdentifier],
        samples_of: Callable[[Image.Image, int, int], list[Sample]],
    ) -> None:
        """Even photos are all right and odd ones all wrong: each half misjudges the other."""
        pairs = zip(
            samples_of(picture(RED), AUDI, 10),
            samples_of(picture(RED), ASTON_MARTIN, 10),
            strict=True,
        )
        samples = [sample for pair in pairs for sample in pair]
        looks = examine_images(worker(TINY_MANIFEST.known), [load_crop(samples[0], 32)] * 20)
        logits = np.stack([look.logits for look in looks])
        figures = cross_fitted(worker, "max_probability", logits, samples, [], 0.95)
        # What the all-right half trusts is all wrong; the all-wrong half trusts nothing.
        assert figures["identified"] == 0.5
        assert figures["identified_right"] == 0
        assert figures["calibration_error"] > 0.5
        assert figures["uncertain"] == 0.5

    def test_a_single_photo_leaves_nothing_to_measure_on(
        self,
        worker: Callable[[KnownScore], CarIdentifier],
        samples_of: Callable[[Image.Image, int, int], list[Sample]],
    ) -> None:
        samples = samples_of(picture(RED), AUDI, 1)
        logits = np.float32([[1, 0, 0, 0]])
        assert cross_fitted(worker, "max_probability", logits, samples, [], 0.95) == {}
