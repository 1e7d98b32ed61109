"""Photos in, answers out, through a real OpenVINO network small enough to foretell its answers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
    TINY_MANIFEST,
    build_tiny_archive_dir,
    photo,
    picture,
)

from handler.answer import Answer
from handler.archive import extract_archive
from handler.car_detector import CarDetector
from handler.errors import ArchiveError, InvalidOptionError, PhotoError
from handler.identifier import CarIdentifier, Options
from handler.labels import write_labels
from handler.manifest import ModelManifest


@pytest.fixture(scope="module")
def identifier(tmp_path_factory: pytest.TempPathFactory) -> CarIdentifier:
    return CarIdentifier.from_directory(build_tiny_archive_dir(tmp_path_factory.mktemp("tiny")))


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


def test_run_images_gives_logits_and_feature_map_per_image(identifier: CarIdentifier) -> None:
    output = identifier.run_images([picture(RED), picture(BLUE), picture(GREEN)])
    assert output.logits.argmax(axis=1).tolist() == [0, 2, 1]
    assert output.feature_map.shape == (3, 3, 4, 4)


def test_a_result_is_not_overwritten_by_the_next_run(identifier: CarIdentifier) -> None:
    first = identifier.run_images([picture(RED)])
    kept = first.logits.copy()
    identifier.run_images([picture(BLUE)])
    assert np.array_equal(first.logits, kept)


def test_threads_may_share_an_identifier(identifier: CarIdentifier) -> None:
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(identifier.identify, [[photo(RED)], [photo(BLUE)]] * 100))
    assert [summary(result) for [result] in results] == [
        "Audi TTS Coupe 2012",
        "BMW X5 SUV 2007",
    ] * 100


# --- options ---------------------------------------------------------------------------------


@pytest.mark.parametrize("top_k", ["0", "21", "-1", "3.5", "abc", "", "1e1", "９", "9" * 5000])
def test_an_impossible_top_k_is_an_invalid_option(top_k: str) -> None:
    with pytest.raises(InvalidOptionError, match="top_k") as error:
        Options.parse(top_k=top_k)
    assert (error.value.code, error.value.status) == ("invalid_option", 422)
    assert len(error.value.message) < 200


@pytest.mark.parametrize("request_id", ["", "a b", "a\nb", "x" * 129, '"', "ä"])
def test_an_impossible_request_id_is_an_invalid_option(request_id: str) -> None:
    with pytest.raises(InvalidOptionError, match="request_id"):
        Options.parse(request_id=request_id)


def test_options_are_read_from_text() -> None:
    assert Options.parse() == Options(top_k=5, request_id=None)
    assert Options.parse(top_k=" 20 ", request_id="3f-A_1.x") == Options(20, "3f-A_1.x")


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
        (overwrite("model.json", b"{}"), "'name'"),
        (overwrite("model.json", b"[]"), "model.json"),
        (overwrite("model.json", b"not json"), "model.json"),
        (overwrite("labels.csv", b"a,b\n1,2\n"), "labels.csv"),
        (overwrite("model.xml", b"<net/>"), "model.xml"),
        (overwrite("selfcheck.npz", b"PK\x03\x04broken"), "selfcheck.npz"),
        (overwrite("selfcheck.npz", b""), "selfcheck.npz"),
        (overwrite("car_detector.npz", b""), "car_detector.npz"),
        (
            lambda directory: CarDetector(np.ones(7, np.float32), 0.0).write(
                directory / "car_detector.npz"
            ),
            "car_detector.npz fits another network",
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


def test_the_manifest_survives_a_round_trip(tmp_path: Path) -> None:
    TINY_MANIFEST.write(tmp_path / "model.json")
    assert ModelManifest.read(tmp_path / "model.json") == TINY_MANIFEST


def test_the_thread_count_can_be_set(archive_dir: Path) -> None:
    identifier = CarIdentifier.from_directory(archive_dir, threads=1)
    assert summary(identifier.identify([photo(RED)])[0]) == "Audi TTS Coupe 2012"


# --- archive and command ---------------------------------------------------------------------


@pytest.fixture
def archive(archive_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.make_archive(str(tmp_path / "tiny"), "zip", archive_dir))


def test_an_archive_is_unpacked_and_cleaned_up(archive: Path) -> None:
    with extract_archive(archive) as directory:
        identifier = CarIdentifier.from_directory(directory)
    assert not directory.exists()
    # The engine holds what it needs.
    assert summary(identifier.identify([photo(BLUE)])[0]) == "BMW X5 SUV 2007"


def test_no_archive_and_a_broken_one_are_refused_in_words(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="no archive"), extract_archive(tmp_path / "none.mar"):
        pass
    archive.write_bytes(archive.read_bytes()[:500])
    with pytest.raises(ArchiveError, match="no complete archive"), extract_archive(archive):
        pass


def test_an_archive_cannot_write_outside_its_directory(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "evil.mar", "w") as file:
        file.writestr("../../escaped.txt", "x")
    with extract_archive(tmp_path / "evil.mar") as directory:
        assert [path.name for path in directory.rglob("*.txt")] == ["escaped.txt"]


def run_command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "handler", *map(str, arguments)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_prints_one_json_answer_per_photo(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "red.jpg").write_bytes(photo(RED))
    (tmp_path / "broken.jpg").write_bytes(b"text")
    result = run_command(
        tmp_path / "red.jpg", tmp_path / "broken.jpg", "--archive", archive, "--top-k", "2"
    )
    red, broken = map(json.loads, result.stdout.splitlines())
    assert red["label"] == "Audi TTS Coupe 2012"
    assert len(red["predictions"]) == 2
    assert broken["file"] == str(tmp_path / "broken.jpg")
    assert broken["error"]["code"] == "unsupported_image_type"
    assert result.returncode == 1


def test_the_command_says_in_one_line_what_is_wrong(tmp_path: Path) -> None:
    result = run_command("x.jpg", "--archive", tmp_path / "none.mar")
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert "no archive" in result.stderr


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
