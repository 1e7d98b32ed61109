"""Looking at photos closer: when it is done, what it costs, and which look counts."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from factories import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    TINY_DETECTOR,
    TINY_LABELS,
    TINY_LOCATOR,
    TINY_MANIFEST,
    build_tiny_archive_dir,
    picture,
    scene,
)
from PIL import Image

from handler.car_detector import CarDetector
from handler.engine import Engine, EngineOutput, OpenVinoEngine
from handler.examiner import Examiner, Look
from handler.locator import CarLocator
from handler.reader import View
from handler.region import Box

SMALL = (320, 240, 480, 360)
# Orange on 1/400 of the photo: it lies in the middle of something at each closer look, and is no
# clearer to see for it.
SPECK = scene((ORANGE, (2500, 1500, 2700, 1700)), size=(4000, 4000))
# For such specks: sure at a hundredth of the detector's features.
KEEN = CarLocator(np.float32([400, 0, -400]), bias=-2)


class CountingEngine:
    """The tiny network, and how many photos each of its runs had."""

    def __init__(self, directory: Path) -> None:
        self._engine = OpenVinoEngine(directory / "model.xml")
        self.runs: list[int] = []
        self.delay = 0.0

    def run(self, images: np.ndarray) -> EngineOutput:
        self.runs.append(len(images))
        time.sleep(self.delay)
        return self._engine.run(images)


class Photos:
    """Photos in memory, to be read whole or in part as the worker's reader does it."""

    def __init__(self, *images: Image.Image) -> None:
        self.images = images
        self.views = [View.of(image, TINY_MANIFEST.preprocessing) for image in images]
        self.read: list[dict[int, Box]] = []

    def reread(self, wanted: Mapping[int, Box]) -> dict[int, View]:
        self.read.append(dict(wanted))
        return {
            index: View.of(self.images[index], TINY_MANIFEST.preprocessing, box)
            for index, box in wanted.items()
        }


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_archive_dir(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def engine(directory: Path) -> CountingEngine:
    return CountingEngine(directory)


def examiner(
    engine: Engine,
    detector: CarDetector | None = TINY_DETECTOR,
    locator: CarLocator | None = TINY_LOCATOR,
) -> Examiner:
    return Examiner(engine, TINY_MANIFEST.known, detector, locator)


def label(look: Look) -> str:
    return TINY_LABELS[int(look.logits.argmax())].label


def essence(look: Look) -> tuple[object, ...]:
    return label(look), look.verdict, look.view.box, look.view.source, look.count


# --- when -------------------------------------------------------------------------------------


def test_a_small_car_on_a_scene_is_found_and_answered_from_a_closer_look(
    engine: CountingEngine,
) -> None:
    photos = Photos(scene((BLUE, SMALL)))
    [at_once] = examiner(engine).examine(photos.views)
    assert at_once.verdict == "not_a_car"
    [look] = examiner(engine).examine(photos.views, photos.reread)
    assert (label(look), look.verdict) == ("BMW X5 SUV 2007", "identified")
    assert (look.view.source, look.count) == ("found", 2)
    assert look.view.box == photos.read[0][0]
    assert look.view.box.clipped(*SMALL[2:]) is not None
    assert look.view.box.width < 320


def test_photos_that_are_identified_cost_one_look(engine: CountingEngine) -> None:
    # Of the last, a closer look would be possible.
    photos = Photos(picture(RED), picture(GREEN), scene((BLUE, (0, 0, 330, 480))))
    looks = examiner(engine).examine(photos.views, photos.reread)
    assert engine.runs == [3]
    assert photos.read == []
    assert [(look.verdict, look.count) for look in looks] == [("identified", 1)] * 3


def test_a_car_that_fills_the_photo_is_looked_at_once_however_uncertain(
    engine: CountingEngine,
) -> None:
    photos = Photos(picture(ORANGE))
    [look] = examiner(engine).examine(photos.views, photos.reread)
    assert (look.verdict, look.count, engine.runs) == ("uncertain", 1, [1])


def test_where_no_car_is_to_be_seen_there_is_no_closer_look(engine: CountingEngine) -> None:
    photos = Photos(picture(GREY))
    [look] = examiner(engine).examine(photos.views, photos.reread)
    assert (look.verdict, look.count, engine.runs) == ("not_a_car", 1, [1])


def test_the_part_that_the_sender_chose_is_not_second_guessed(engine: CountingEngine) -> None:
    photos = Photos(scene((BLUE, SMALL)))
    chosen = [replace(view, source="box") for view in photos.views]
    [look] = examiner(engine).examine(chosen, photos.reread)
    assert (look.view.source, look.count, engine.runs) == ("box", 1, [1])


def test_a_part_of_a_few_pixels_is_not_looked_at(engine: CountingEngine) -> None:
    photos = Photos(scene((BLUE, (16, 12, 24, 18)), size=(32, 24)))
    examiner(engine).examine(photos.views, photos.reread)
    assert photos.read == []


def test_without_a_locator_there_is_one_look(engine: CountingEngine) -> None:
    photos = Photos(scene((BLUE, SMALL)))
    [look] = examiner(engine, locator=None).examine(photos.views, photos.reread)
    assert (look.verdict, look.count, engine.runs) == ("not_a_car", 1, [1])


def test_no_photo_is_looked_at_more_than_three_times(
    engine: CountingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = Photos(SPECK)
    [look] = examiner(engine, locator=KEEN).examine(photos.views, photos.reread)
    assert look.count == 3
    assert engine.runs == [1, 1, 1]
    first, second = (read[0] for read in photos.read)
    assert second.width < first.width
    # There would have been more to see: it is the limit that ends it.
    monkeypatch.setattr("handler.examiner._MAX_LOOKS", 10)
    [look] = examiner(engine, locator=KEEN).examine(photos.views, photos.reread)
    assert look.count > 3


# --- which counts -----------------------------------------------------------------------------


def test_the_whole_photo_counts_where_a_closer_look_is_no_clearer(engine: CountingEngine) -> None:
    photos = Photos(scene((ORANGE, (320, 0, 640, 480))))
    whole = Box(0, 0, 640, 480)
    [look] = examiner(engine).examine(photos.views, photos.reread)
    assert (look.verdict, look.count) == ("uncertain", 2)
    assert (look.view.box, look.view.source) == (whole, "photo")
    [alone] = examiner(engine).examine(photos.views)
    assert look.logits.tolist() == alone.logits.tolist()


def test_a_part_that_was_found_needs_the_stricter_score_to_be_a_car(
    engine: CountingEngine,
) -> None:
    photos = Photos(scene((BLUE, SMALL)))
    [look] = examiner(engine).examine(photos.views, photos.reread)
    for found_from, verdict in (
        (look.car_score - 1e-4, "identified"),
        (look.car_score + 1e-4, "not_a_car"),
    ):
        strict = replace(TINY_DETECTOR, found_from=found_from)
        [again] = examiner(engine, strict).examine(photos.views, photos.reread)
        assert again.verdict == verdict
    # The same part, chosen by its sender, and a whole photo are taken for cars from 0 on.
    strict = replace(TINY_DETECTOR, found_from=1000.0)
    chosen = [replace(look.view, source="box"), *Photos(picture(RED)).views]
    looks = examiner(engine, strict).examine(chosen, photos.reread)
    assert [one.verdict for one in looks] == ["identified", "identified"]


def test_a_part_that_was_found_needs_the_stricter_score_to_be_identified(
    engine: CountingEngine,
) -> None:
    photos = Photos(scene((BLUE, SMALL)))
    [look] = examiner(engine).examine(photos.views, photos.reread)
    for strictness, verdict in (
        (look.confidence - TINY_MANIFEST.known.threshold - 1e-4, "identified"),
        (look.confidence - TINY_MANIFEST.known.threshold + 1e-4, "uncertain"),
    ):
        known = replace(TINY_MANIFEST.known, stricter_if_found=strictness)
        strict = Examiner(engine, known, TINY_DETECTOR, TINY_LOCATOR)
        [again] = strict.examine(photos.views, photos.reread)
        assert again.verdict == verdict
        [chosen] = strict.examine([replace(look.view, source="box")], photos.reread)
        assert chosen.verdict == "identified"


def test_without_a_detector_everything_is_a_car(engine: CountingEngine) -> None:
    photos = Photos(picture(GREY), scene((BLUE, SMALL)))
    looks = examiner(engine, detector=None).examine(photos.views, photos.reread)
    assert [look.verdict for look in looks] == ["uncertain", "identified"]
    assert looks[0].car_score == np.inf


def test_the_first_look_counts_where_the_part_cannot_be_read(engine: CountingEngine) -> None:
    photos = Photos(scene((BLUE, SMALL)), scene((GREEN, SMALL)))

    def reads_the_second(wanted: Mapping[int, Box]) -> dict[int, View]:
        return {index: view for index, view in photos.reread(wanted).items() if index == 1}

    unread, read = examiner(engine).examine(photos.views, reads_the_second)
    assert (unread.verdict, unread.view.source, unread.count) == ("not_a_car", "photo", 1)
    assert (label(read), read.count) == ("Aston Martin V8 Vantage Coupe 2012", 2)
    [unread] = examiner(engine).examine(photos.views[:1], lambda _: {})
    assert (unread.verdict, unread.view.source, unread.count) == ("not_a_car", "photo", 1)


# --- batches and times ------------------------------------------------------------------------


def in_batch_and_alone(
    engine: CountingEngine, locator: CarLocator, images: Sequence[Image.Image]
) -> tuple[list[Look], list[Look]]:
    worker = examiner(engine, locator=locator)
    photos = Photos(*images)
    together = worker.examine(photos.views, photos.reread)
    alone = []
    for image in images:
        one = Photos(image)
        alone += worker.examine(one.views, one.reread)
    return together, alone


@pytest.mark.parametrize("locator", [TINY_LOCATOR, KEEN])
def test_in_a_mixed_batch_every_photo_gets_the_answer_it_gets_alone(
    engine: CountingEngine, locator: CarLocator
) -> None:
    images = [
        *(picture(RED), scene((BLUE, SMALL)), picture(GREY), SPECK, picture(ORANGE)),
        *(scene((GREEN, (0, 0, 200, 200))), scene((ORANGE, SMALL)), picture(BLUE)),
    ]
    together, alone = in_batch_and_alone(engine, locator, images)
    assert [essence(look) for look in together] == [essence(look) for look in alone]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.logits, other.logits, atol=1e-5)
    # Some were looked at once and others closer, or this shows nothing.
    assert len({look.count for look in together}) > 1


def test_closer_looks_are_run_as_batches_too(engine: CountingEngine) -> None:
    photos = Photos(picture(RED), scene((BLUE, SMALL)), picture(GREEN), scene((GREEN, SMALL)))
    examiner(engine).examine(photos.views, photos.reread)
    assert engine.runs == [4, 2]


def test_the_times_of_all_looks_add_up(engine: CountingEngine) -> None:
    photos = Photos(SPECK, picture(RED))
    decode_ms = iter([10.0, 1.0])

    def reread(wanted: Mapping[int, Box]) -> dict[int, View]:
        ms = next(decode_ms)
        return {index: replace(view, decode_ms=ms) for index, view in photos.reread(wanted).items()}

    engine.delay = 0.02
    views = [replace(view, decode_ms=100.0) for view in photos.views]
    thrice, once = examiner(engine, locator=KEEN).examine(views, reread)
    assert (thrice.decode_ms, once.decode_ms) == (111.0, 100.0)
    assert once.inference_ms >= 20
    assert once.inference_ms + 40 <= thrice.inference_ms


def test_no_photos_take_no_look(engine: CountingEngine) -> None:
    assert examiner(engine).examine([]) == []
    assert engine.runs == []
