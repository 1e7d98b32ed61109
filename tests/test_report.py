"""The report folder: what is in it, from evaluations small enough to check by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy_cars import toy_photo

from handler.labels import CarLabel, labels_from_names
from lightning_train.data import Sample
from lightning_train.evaluation.curves import read_curves
from lightning_train.evaluation.folder import Subject, write_report
from lightning_train.evaluation.result import Evaluation, PhotoScores, Temperature

ROOT = Path(__file__).resolve().parent.parent
NAMES = ["Audi A5 Coupe 2012", "Audi TTS Coupe 2012", "BMW X5 SUV 2007"]
SUBJECT = Subject("checkpoint", "runs/toy/best.ckpt", "resnet18", "val", config="seed: 1")
PICTURES = {"reliability", "worst_classes", "confused_pairs", "class_size"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A red, a green and a blue car."""
    folder = tmp_path_factory.mktemp("photos")
    for class_id in range(3):
        toy_photo(class_id, class_id).save(folder / f"{class_id}.png")
    return sorted(folder.iterdir())


def scores(answers: Sequence[int], classes: int, sure: float = 3.0) -> PhotoScores:
    """A network that says these classes, all equally sure."""
    logits = np.eye(classes, dtype=np.float32)[list(answers)] * sure
    return PhotoScores(logits, {"confidence": logits.max(axis=1)})


def evaluation(
    photos: list[Path],
    truth: Sequence[int],
    answers: Sequence[int],
    training: Sequence[int] = (0, 0, 1, 1, 1, 2),
    names: Sequence[str] = NAMES,
) -> Evaluation:
    labels: tuple[CarLabel, ...] = labels_from_names(names)

    def samples(ids: Sequence[int]) -> tuple[Sample, ...]:
        return tuple(Sample(photos[i % len(photos)], i) for i in ids)

    return Evaluation(
        labels=labels,
        samples=samples(truth),
        cars=scores(answers, len(labels)),
        temperature=Temperature(2.0, "these very photos"),
        training=samples(training),
    )


def written(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def drawn(folder: Path) -> set[str]:
    """The pictures that are there, each opened and found to be more than an empty canvas."""
    for path in folder.glob("*.png"):
        with Image.open(path) as image:
            assert min(image.size) > 200, path
            assert len(image.convert("RGB").getcolors(1 << 24) or []) > 50, path
    return {path.stem for path in folder.glob("*.png")}


def test_the_folder_holds_figures_pictures_and_a_page_that_shows_them(
    photos: list[Path], tmp_path: Path
) -> None:
    assert write_report(tmp_path, SUBJECT, evaluation(photos, [0, 0, 1, 2], [0, 1, 1, 2])) == []
    assert drawn(tmp_path) == PICTURES
    page = (tmp_path / "index.html").read_text()
    assert {name.removesuffix(".png") for name in re.findall(r'src="([^"]+)"', page)} == PICTURES
    for said in ("resnet18", "best.ckpt", "validation photos", "75.0 %", "2.000", "seed: 1"):
        assert said in page
    assert "://" not in page  # nothing is fetched from anywhere


def test_the_figures_are_those_of_the_answers(photos: list[Path], tmp_path: Path) -> None:
    write_report(tmp_path, SUBJECT, evaluation(photos, [0, 0, 1, 2], [0, 1, 1, 2]))
    content = written(tmp_path)
    figures = content["figures"]
    assert (content["checkpoint"], content["split"]) == ("runs/toy/best.ckpt", "val")
    assert figures["top1"] == 0.75
    assert figures["make"] == 1.0  # the mistake is another Audi
    assert figures["per_class"] == pytest.approx((0.5 + 1 + 1) / 3)
    assert figures["top1_standard_error"] == pytest.approx((0.75 * 0.25 / 4) ** 0.5)
    # Every photo has the same confidence, and three of four are right.
    for figure, temperature in (("calibration_error_before", 1), ("calibration_error", 2)):
        confidence = 1 / (1 + 2 * np.exp(-3 / temperature))
        assert figures[figure] == pytest.approx(abs(confidence - 0.75), abs=1e-6)
    assert content["temperature"] == {"value": 2.0, "fitted_on": "these very photos"}
    assert [row["training_photos"] for row in content["classes"]] == [2, 3, 1]
    assert [row["accuracy"] for row in content["classes"]] == [0.5, 1.0, 1.0]
    assert content["confused_pairs"] == [{"truth": NAMES[0], "answer": NAMES[1], "photos": 1}]


def test_photos_of_other_things_are_told_apart_by_every_score(
    photos: list[Path], tmp_path: Path
) -> None:
    known = evaluation(photos, [0, 1], [0, 1])
    known = replace(known, cars=replace(known.cars, known={"energy": np.array([3.0, 1.0])}))
    others = PhotoScores(np.zeros((2, 3), np.float32), {"energy": np.array([0.0, 2.0])})
    write_report(tmp_path, SUBJECT, replace(known, outside={"not_cars": others}))
    assert written(tmp_path)["outside"] == {"not_cars": {"photos": 2, "auroc_energy": 0.75}}
    page = (tmp_path / "index.html").read_text()
    assert "AUROC, energy" in page
    assert "75.00 %" in page


def test_a_misread_photo_is_shown_beside_one_of_the_class_it_was_taken_for(
    photos: list[Path], tmp_path: Path
) -> None:
    # Red taken for blue, so red and blue are to be seen and no green.
    write_report(tmp_path, SUBJECT, evaluation(photos, [0, 1], [2, 1]))
    pixels = np.asarray(Image.open(tmp_path / "confused_pairs.png").convert("RGB")).astype(int)
    quarter = pixels.shape[1] // 4  # the place of a second pair stays empty
    left, right = pixels[:, :quarter], pixels[:, quarter : 2 * quarter]

    def share(part: np.ndarray, color: int) -> float:
        others = [channel for channel in range(3) if channel != color]
        return float((part[..., color] > part[..., others].max(axis=-1) + 30).mean())

    assert share(left, 0) > 0.1 > share(right, 0)
    assert share(right, 2) > 0.1 > share(left, 2)
    assert share(pixels, 1) < 0.02  # the noise around the cars


def test_the_worst_classes_are_listed_by_accuracy_then_size(
    photos: list[Path], tmp_path: Path
) -> None:
    names = [f"Audi A{i} 2012" for i in range(1, 5)]
    #       A1: 1 of 2     A2: 0 of 1   A3: 2 of 4            A4: all right
    truth = [0, 0, 1, 2, 2, 2, 2, 3]
    answers = [0, 1, 2, 2, 2, 3, 3, 3]
    write_report(tmp_path, SUBJECT, evaluation(photos, truth, answers, names=names))
    page = (tmp_path / "index.html").read_text()
    table = page[page.index("least accurate classes") : page.index("worst_classes.png")]
    assert re.findall(r'row">(Audi A\d 2012)<', table) == [names[1], names[2], names[0]]
    assert re.findall(r"<td>(Audi A\d 2012)<", table) == [names[2], names[3], names[1]]


def test_class_names_are_text_and_no_markup(photos: list[Path], tmp_path: Path) -> None:
    names = ["Audi <script>alert(1)</script> 2012", "BMW $x_1^{$ & Co 2007"]
    report = evaluation(photos, [0, 1], [1, 0], [0, 1], names)
    assert write_report(tmp_path, replace(SUBJECT, config="a: <b>"), report) == []
    page = (tmp_path / "index.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "a: &lt;b&gt;" in page
    assert drawn(tmp_path) == PICTURES


def test_without_a_mistake_nothing_is_called_worst_or_confused(
    photos: list[Path], tmp_path: Path
) -> None:
    write_report(tmp_path, SUBJECT, evaluation(photos, [0, 1], [1, 0], [0, 1], NAMES[:2]))
    assert drawn(tmp_path) == PICTURES
    # A better network, the same folder: the pictures of the old one must go.
    write_report(tmp_path, SUBJECT, evaluation(photos, [0, 1], [0, 1], [0, 1], NAMES[:2]))
    assert drawn(tmp_path) == {"reliability", "class_size"}
    page = (tmp_path / "index.html").read_text()
    assert "All 2 photos were named rightly" in page
    assert "worst_classes.png" not in page


def test_a_class_without_photos_has_no_accuracy(photos: list[Path], tmp_path: Path) -> None:
    assert write_report(tmp_path, SUBJECT, evaluation(photos, [0, 0], [0, 2])) == []
    assert drawn(tmp_path) == PICTURES
    rows = written(tmp_path)["classes"]
    assert [(row["photos"], row["accuracy"]) for row in rows] == [(2, 0.5), (0, None), (0, None)]
    assert written(tmp_path)["figures"]["per_class"] == 0.5


def test_without_training_photos_class_size_is_not_drawn(
    photos: list[Path], tmp_path: Path
) -> None:
    report = evaluation(photos, [0, 2], [2, 2], training=())
    assert write_report(tmp_path, SUBJECT, report) == []
    assert drawn(tmp_path) == PICTURES - {"class_size"}
    # Photos beside the misread ones come from the split itself then.
    without_example = evaluation(photos, [0], [2], training=())
    assert write_report(tmp_path, SUBJECT, without_example) == []
    assert "confused_pairs" in drawn(tmp_path)


def test_a_long_tail_of_classes_is_drawn(photos: list[Path], tmp_path: Path) -> None:
    names = [f"Audi A{i} 2012" for i in range(1, 41)]
    sizes = np.repeat(np.arange(40), np.geomspace(1, 200, 40).astype(int)).tolist()
    truth = list(range(40)) * 3
    answers = [i if i % 3 else (i + 1) % 40 for i in truth]
    assert write_report(tmp_path, SUBJECT, evaluation(photos, truth, answers, sizes, names)) == []
    assert drawn(tmp_path) == PICTURES


def test_a_picture_that_fails_is_named_and_the_rest_is_written(
    photos: list[Path], tmp_path: Path
) -> None:
    gone = [tmp_path / "deleted since.png", *photos[1:]]
    problems = write_report(tmp_path / "r", SUBJECT, evaluation(gone, [0, 1], [1, 1]))
    assert len(problems) == 1
    assert re.search(r"confused_pairs\.png could not be drawn.*deleted since", problems[0])
    assert drawn(tmp_path / "r") == PICTURES - {"confused_pairs"}
    assert "deleted since" in (tmp_path / "r/index.html").read_text()
    assert written(tmp_path / "r")["figures"]["top1"] == 0.5


def test_a_file_in_place_of_the_folder_is_named(photos: list[Path], tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(ValueError, match=r"report\.json is a file"):
        write_report(tmp_path / "report.json", SUBJECT, evaluation(photos, [0], [0]))


def test_logits_of_other_photos_are_refused(photos: list[Path]) -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(1, 3\)"):
        evaluation(photos, [0], [0, 1])


def test_the_curves_of_a_run_are_drawn_over_its_epochs(photos: list[Path], tmp_path: Path) -> None:
    curves = read_curves(ROOT / "lightning_train/runs/efficientnet_lite0_cpu/metrics.csv")
    assert curves is not None
    assert curves.steps_per_epoch == 229
    top1 = curves.columns["val/top1"]
    assert top1.epochs.tolist() == list(range(1, 17))
    assert top1.values[-1] == pytest.approx(0.898, abs=5e-4)
    assert max(rate.values.max() for rate in curves.learning_rates()) == pytest.approx(2e-3, 0.01)
    report = evaluation(photos, [0], [0])
    assert write_report(tmp_path, replace(SUBJECT, epoch=16), report, curves) == []
    assert "curves" in drawn(tmp_path)
    assert "curves.png" in (tmp_path / "index.html").read_text()


def test_one_epoch_is_enough_for_curves(photos: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,train/loss_epoch,val/loss,val/top1\n0,5,,1.5,0.25\n0,5,2.0,,\n")
    curves = read_curves(path)
    assert curves is not None
    assert curves.columns["train/loss_epoch"].epochs.tolist() == [1.0]
    assert write_report(tmp_path, SUBJECT, evaluation(photos, [0], [0]), curves) == []
    assert "curves" in drawn(tmp_path)


def test_a_log_without_training_has_no_curves(tmp_path: Path) -> None:
    assert read_curves(tmp_path / "none.csv") is None
    (tmp_path / "metrics.csv").write_text("epoch,step,val/loss,val/top1\n0,0,1.5,0.25\n")
    assert read_curves(tmp_path / "metrics.csv") is None
