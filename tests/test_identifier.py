"""Photos in, answers out, through a real OpenVINO network small enough to foretell its answers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
    TINY_LABELS,
    TINY_LOCATOR,
    TINY_MANIFEST,
    build_tiny_archive_dir,
    encode,
    photo,
    scene,
)

from handler.answer import Answer
from handler.car_detector import CarDetector
from handler.errors import ArchiveError, PhotoError
from handler.identifier import CarIdentifier
from handler.known import KnownScore
from handler.labels import write_labels
from handler.locator import CarLocator
from handler.manifest import ModelManifest
from handler.options import Options
from handler.region import Box


@pytest.fixture(scope="module")
def identifier(tmp_path_factory: pytest.TempPathFactory) -> CarIdentifier:
    directory = build_tiny_archive_dir(tmp_path_factory.mktemp("tiny"), locator=TINY_LOCATOR)
    return CarIdentifier.from_directory(directory)


@pytest.fixture
def archive_dir(tmp_path: Path) -> Path:
    return build_tiny_archive_dir(tmp_path / "archive")


def summary(result: Answer | PhotoError) -> str:
    return result.code if isinstance(result, PhotoError) else result.predictions[0].label.label


@pytest.mark.parametrize(
    ("colour", "label", "verdict"),
    [
        (RED, "Audi TTS Coupe 2012", "identified"),
        (GREEN, "Aston Martin V8 Vantage Coupe 2012", "identified"),
        (BLUE, "BMW X5 SUV 2007", "identified"),
        (ORANGE, "Audi TTS Coupe 2012", "uncertain"),  # half-way to the other Audi
        (GREY, None, "not_a_car"),
    ],
)
def test_a_photo_gets_its_answer(
    identifier: CarIdentifier, colour: tuple[int, int, int], label: str | None, verdict: str
) -> None:
    [answer] = identifier.identify([photo(colour)])
    assert isinstance(answer, Answer)
    assert answer.verdict == verdict
    if label is not None:
        assert answer.predictions[0].label.label == label


def test_the_make_may_be_sure_where_the_model_is_not(identifier: CarIdentifier) -> None:
    [answer] = identifier.identify([photo(ORANGE)])
    assert isinstance(answer, Answer)
    assert answer.predictions[0].confidence < 0.6
    assert answer.make_confidence > 0.95
    assert "equally likely" in " ".join(answer.warnings)


def test_bad_photos_in_a_batch_change_nothing_for_the_good_ones(identifier: CarIdentifier) -> None:
    truncated = photo(RED)[:300]
    batch = [b"", photo(RED), b"text", photo(BLUE), truncated, photo(GREEN)]
    assert [summary(result) for result in identifier.identify(batch)] == [
        "image_missing",
        "Audi TTS Coupe 2012",
        "unsupported_image_type",
        "BMW X5 SUV 2007",
        "image_unreadable",
        "Aston Martin V8 Vantage Coupe 2012",
    ]


def test_a_photo_gets_the_same_confidence_alone_and_in_a_batch(identifier: CarIdentifier) -> None:
    photos = [photo(colour) for colour in (RED, ORANGE, GREEN, GREY, BLUE)]
    together = [answer.to_json()["predictions"] for answer in identifier.identify(photos)]
    alone = [identifier.identify([one])[0].to_json()["predictions"] for one in photos]
    assert together == alone


def test_a_batch_of_bad_photos_only_and_an_empty_batch_are_answered(
    identifier: CarIdentifier,
) -> None:
    assert [summary(result) for result in identifier.identify([b"", b"x"])] == [
        "image_missing",
        "unsupported_image_type",
    ]
    assert identifier.identify([]) == []


def test_each_photo_of_a_batch_has_its_own_options(identifier: CarIdentifier) -> None:
    options = [Options(top_k=1, request_id="a"), Options(), Options(top_k=3, request_id="c")]
    results = identifier.identify([photo(RED), b"", photo(BLUE)], options)
    first, bad, last = results
    assert isinstance(first, Answer)
    assert isinstance(last, Answer)
    assert isinstance(bad, PhotoError)
    assert (len(first.predictions), first.request_id) == (1, "a")
    assert (len(last.predictions), last.request_id) == (3, "c")


def test_options_that_do_not_match_the_photos_are_a_programming_error(
    identifier: CarIdentifier,
) -> None:
    with pytest.raises(ValueError, match="zip"):
        identifier.identify([photo(RED), photo(BLUE)], [Options()])


def test_the_answer_says_how_long_it_took_and_which_model_answered(
    identifier: CarIdentifier,
) -> None:
    [answer] = identifier.identify([photo(RED)])
    assert isinstance(answer, Answer)
    assert set(answer.timing_ms) == {"decode", "inference"}
    assert all(0 < ms < 10_000 for ms in answer.timing_ms.values())
    assert answer.model_version == TINY_MANIFEST.version


def test_warnings_about_the_photo_reach_the_answer(identifier: CarIdentifier) -> None:
    [answer] = identifier.identify([photo(RED, (9, 7))])
    assert isinstance(answer, Answer)
    assert "9×7" in " ".join(answer.warnings)


def test_a_small_car_is_found_read_again(identifier: CarIdentifier) -> None:
    car = (320, 240, 480, 360)
    [answer] = identifier.identify([encode(scene((BLUE, car)))])
    assert isinstance(answer, Answer)
    assert (summary(answer), answer.verdict) == ("BMW X5 SUV 2007", "identified")
    assert answer.region.source == "found"
    assert covers(answer.region.box, car)
    assert answer.region.share < 0.2


def test_the_photo_that_is_read_again_is_the_right_one(identifier: CarIdentifier) -> None:
    green, blue = (encode(scene((colour, (320, 240, 480, 360)))) for colour in (GREEN, BLUE))
    results = identifier.identify([b"", green, photo(RED), b"text", blue])
    assert [(summary(one), one.verdict) for one in results if isinstance(one, Answer)] == [
        ("Aston Martin V8 Vantage Coupe 2012", "identified"),
        ("Audi TTS Coupe 2012", "identified"),
        ("BMW X5 SUV 2007", "identified"),
    ]


def covers(box: Box, car: tuple[int, int, int, int]) -> bool:
    """Whether almost all of the car is in the box."""
    seen = Box(*car).clipped(box.right, box.bottom)
    if seen is None:
        return False
    left, top = max(box.left, seen.left), max(box.top, seen.top)
    area = (car[2] - car[0]) * (car[3] - car[1])
    return (seen.right - left) * (seen.bottom - top) > 0.9 * area


def test_a_box_chooses_the_car_of_a_photo_that_shows_two(identifier: CarIdentifier) -> None:
    photo = encode(scene((RED, (0, 0, 320, 480)), (BLUE, (320, 0, 640, 480))))
    boxes = [Box(20, 20, 300, 460), Box(340, 20, 5000, 460)]
    left, right = identifier.identify([photo] * 2, [Options(box=box) for box in boxes])
    assert (summary(left), summary(right)) == ("Audi TTS Coupe 2012", "BMW X5 SUV 2007")
    assert isinstance(left, Answer)
    assert isinstance(right, Answer)
    assert left.to_json()["region"] == {
        **{"left": 20, "top": 20, "right": 300, "bottom": 460},
        "source": "box",
    }
    assert right.region.box == Box(340, 20, 640, 460), "clipped to the photo"


def test_a_box_beside_the_photo_hurts_only_its_own_photo(identifier: CarIdentifier) -> None:
    options = [Options(box=Box(96, 0, 200, 10)), Options()]
    beside, good = identifier.identify([photo(RED), photo(BLUE)], options)
    assert summary(beside) == "invalid_option"
    assert "96×64" in beside.to_json()["error"]["message"]
    assert summary(good) == "BMW X5 SUV 2007"


def test_the_heatmap_is_there_if_asked_for_and_lies_on_the_car(identifier: CarIdentifier) -> None:
    two = encode(scene((RED, (0, 0, 320, 480)), (BLUE, (480, 0, 640, 480))))
    asked, not_asked = identifier.identify([two] * 2, [Options(explain=True), Options()])
    assert isinstance(asked, Answer)
    assert isinstance(not_asked, Answer)
    assert not_asked.heatmap is None
    assert asked.heatmap is not None
    assert asked.heatmap.class_id == asked.predictions[0].label.class_id
    assert (asked.heatmap.box, asked.heatmap.size) == (asked.region.box, (640, 480))
    # Red speaks for the Audi, grey hardly, and blue against it.
    left, middle, right = (asked.heatmap.grid[:, column] for column in (0, 2, 3))
    assert left.min() > middle.max() > right.max()


def test_threads_may_share_an_identifier(identifier: CarIdentifier) -> None:
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(identifier.identify, [[photo(RED)], [photo(BLUE)]] * 100))
    assert [summary(result) for [result] in results] == [
        "Audi TTS Coupe 2012",
        "BMW X5 SUV 2007",
    ] * 100


# --- loading ---------------------------------------------------------------------------------


def drop_a_label(directory: Path) -> None:
    write_labels(TINY_LABELS[:-1], directory / "labels.csv")


def change_a_weight(directory: Path) -> None:
    weights = bytearray((directory / "model.bin").read_bytes())
    one, other = np.float32(4).tobytes(), np.float32(5).tobytes()
    at = weights.index(one)
    weights[at : at + 4] = other
    (directory / "model.bin").write_bytes(weights)


def expect_nan(directory: Path) -> None:
    stored = dict(np.load(directory / "selfcheck.npz"))
    stored["logits"][0, 0] = np.nan
    np.savez(directory / "selfcheck.npz", **stored)


def expect_another_shape(directory: Path) -> None:
    stored = dict(np.load(directory / "selfcheck.npz"))
    np.savez(directory / "selfcheck.npz", images=stored["images"], logits=stored["logits"][:1])


def check_images_of_another_size(directory: Path) -> None:
    stored = dict(np.load(directory / "selfcheck.npz"))
    np.savez(directory / "selfcheck.npz", images=stored["images"][:, :8], logits=stored["logits"])


def remove(name: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).unlink()


def replace_arrays(name: str, **arrays: object) -> Callable[[Path], None]:
    return lambda directory: np.savez(directory / name, **arrays)


def overwrite(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda directory: (directory / name).write_bytes(content) and None


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (change_a_weight, r"self-check failed: logits differ by up to .* \(allowed: 0.001\)"),
        (expect_nan, "self-check failed"),
        (expect_another_shape, "shape"),
        (check_images_of_another_size, "self-check can't run"),
        (drop_a_label, "4 classes and labels.csv 3"),
        (remove("model.json"), "model.json"),
        (remove("labels.csv"), "labels.csv"),
        (remove("model.xml"), "model.xml"),
        (remove("model.bin"), "model.xml"),
        (remove("selfcheck.npz"), "selfcheck.npz"),
        (overwrite("model.json", b"{}"), "model.json has no 'calibration'"),
        (overwrite("model.json", b"[]"), "model.json"),
        (overwrite("model.json", b"not json"), "model.json"),
        (overwrite("labels.csv", b"a,b\n1,2\n"), "labels.csv"),
        (overwrite("model.xml", b"<net/>"), "model.xml"),
        (overwrite("selfcheck.npz", b"PK\x03\x04broken"), "selfcheck.npz"),
        (overwrite("selfcheck.npz", b""), "selfcheck.npz"),
        (overwrite("car_detector.npz", b""), "car_detector.npz"),
        (remove("classifier.npz"), "classifier.npz"),
        (replace_arrays("classifier.npz", weights=np.ones((4, 7))), "classifier.npz fits another"),
        (replace_arrays("classifier.npz", weights=np.ones((3, 3))), "classifier.npz fits another"),
        (replace_arrays("classifier.npz", weights=1.0), "classifier.npz fits another"),
        (replace_arrays("classifier.npz", rows=np.ones((4, 3))), "classifier.npz"),
        (
            lambda directory: CarDetector(np.ones(7, np.float32), 0.0).write(
                directory / "car_detector.npz"
            ),
            "car_detector.npz fits another network",
        ),
        (
            lambda directory: CarLocator(np.ones(7, np.float32), 0.0).write(
                directory / "car_locator.npz"
            ),
            "car_locator.npz fits another network",
        ),
    ],
)
def test_a_damaged_archive_is_refused_in_words(
    archive_dir: Path, damage: Callable[[Path], None], said: str
) -> None:
    CarIdentifier.from_directory(archive_dir)
    damage(archive_dir)
    with pytest.raises(ArchiveError, match=said):
        CarIdentifier.from_directory(archive_dir)


def test_an_unknown_engine_is_refused_by_name(tmp_path: Path) -> None:
    directory = build_tiny_archive_dir(tmp_path, engine="abacus")
    with pytest.raises(ArchiveError, match="'abacus'"):
        CarIdentifier.from_directory(directory)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive_is_refused(tmp_path: Path, temperature: float) -> None:
    directory = build_tiny_archive_dir(tmp_path, temperature=temperature)
    with pytest.raises(ArchiveError, match="temperature"):
        CarIdentifier.from_directory(directory)


def test_a_score_that_does_not_exist_is_refused_by_name(archive_dir: Path) -> None:
    manifest = json.loads((archive_dir / "model.json").read_text())
    manifest["verdict"]["score"] = "gut feeling"
    (archive_dir / "model.json").write_text(json.dumps(manifest))
    with pytest.raises(ArchiveError, match="no score 'gut feeling'"):
        CarIdentifier.from_directory(archive_dir)


def test_the_manifest_survives_a_round_trip(tmp_path: Path) -> None:
    known = KnownScore("energy", 1.5, 11.25, stricter_if_found=0.125)
    manifest = replace(TINY_MANIFEST, temperature=1.5, known=known)
    manifest.write(tmp_path / "model.json")
    assert ModelManifest.read(tmp_path / "model.json") == manifest


def test_an_archive_from_before_1_2_trusts_closer_looks_as_much_as_the_first() -> None:
    data = TINY_MANIFEST.to_dict()
    del data["verdict"]["stricter_if_found"]
    assert ModelManifest.from_dict(data) == TINY_MANIFEST


def test_the_thread_count_can_be_set(archive_dir: Path) -> None:
    identifier = CarIdentifier.from_directory(archive_dir, threads=1)
    assert summary(identifier.identify([photo(RED)])[0]) == "Audi TTS Coupe 2012"


def test_the_core_needs_neither_torchserve_nor_torch() -> None:
    program = (
        "import sys, handler.identifier, handler.archive\n"
        "print(sorted({'ts', 'torch', 'torchvision'} & sys.modules.keys()))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == "[]"
