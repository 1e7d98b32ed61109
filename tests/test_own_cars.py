"""Someone's own cars, as a table or as class folders: trained, packaged and answered."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as pl
from toy_cars import OWN_CARS, toy_photo, write_other_photos, write_table
from toy_training import toy_data, toy_model, toy_trainer

from handler.answer import Answer
from handler.archive import extract_archive
from handler.identifier import CarIdentifier
from handler.labels import read_labels
from lightning_train.archive import archive
from lightning_train.data import read_dataset
from lightning_train.evaluation.evaluate import evaluate
from lightning_train.evaluation.photo_sets import PhotoSets


def write_not_cars(root: Path, photos: int) -> None:
    write_other_photos(root / "not_cars", photos, "Größe {}.png")


def train(root: Path, folder: Path, epochs: int = 6) -> Path:
    """A checkpoint, by the same calls as the command line's."""
    pl.seed_everything(0, verbose=False)
    data = toy_data(root)
    trainer = toy_trainer(folder, epochs)
    trainer.fit(toy_model(class_names=data.class_names), data)
    trainer.save_checkpoint(folder / "own.ckpt")
    return folder / "own.ckpt"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = write_table(tmp_path_factory.mktemp("table"), OWN_CARS[:2], [40, 30])
    return root, train(root, tmp_path_factory.mktemp("checkpoint"))


def answers(mar: Path, photos: list[bytes]) -> list[Answer]:
    with extract_archive(mar) as directory:
        return CarIdentifier.from_directory(directory).identify(photos)  # type: ignore[return-value]


def test_a_table_is_trained_and_served_without_photos_of_other_things(
    table: tuple[Path, Path], tmp_path: Path
) -> None:
    root, checkpoint = table
    mar = tmp_path / "own.mar"
    archive(checkpoint, "1.1", root, mar, calibration_photos=20)
    val = read_dataset(root, "val").samples
    given = answers(mar, [sample.path.read_bytes() for sample in val])
    for sample, answer in zip(val, given, strict=True):
        best = answer.to_json()
        car = (best["make"], best["model"], best["body"] or "", best["year"])
        assert car == OWN_CARS[sample.class_id]
        assert len(best["predictions"]) == 2
        assert answer.make_confidence == pytest.approx(answer.predictions[0].confidence)
        assert answer.verdict != "not_a_car"
    figures = evaluate(mar, root, "val", tmp_path / "report")["figures"]
    assert figures["top1"] == figures["top5"] == figures["make"] == 1.0


def test_with_photos_of_other_things_the_same_cars_are_told_from_them(
    table: tuple[Path, Path], tmp_path: Path
) -> None:
    root, checkpoint = table
    write_not_cars(root, 20)
    mar = tmp_path / "own.mar"
    archive(checkpoint, "1.1", root, mar, calibration_photos=20)
    others = PhotoSets(root, 32).others("not_cars", "measure")
    given = answers(mar, [path.read_bytes() for path in others])
    assert sum(answer.verdict == "not_a_car" for answer in given) >= 0.8 * len(others) > 4
    cars = answers(mar, [sample.path.read_bytes() for sample in read_dataset(root, "val").samples])
    assert all(answer.verdict != "not_a_car" for answer in cars)


def test_class_folders_of_few_photos_are_trained_and_packaged(tmp_path: Path) -> None:
    root = tmp_path / "Мои машины"
    # A class of a single photo, and so a single photo to calibrate with: it is poor, but it runs.
    for name, class_id, photos in (("Alfa Romeo Giulia Sedan 2020", 0, 9), ("VW Käfer 1972", 1, 1)):
        folder = root / "train" / name
        folder.mkdir(parents=True)
        for number in range(photos):
            toy_photo(class_id, number).save(folder / f"{number}.jpg")
    checkpoint = train(root, tmp_path, epochs=1)
    for not_cars in (0, 2):
        if not_cars:
            write_not_cars(root, not_cars)
        mar = tmp_path / f"own{not_cars}.mar"
        archive(checkpoint, "1.1", root, mar, calibration_photos=4)
        with extract_archive(mar) as directory:
            labels = read_labels(directory / "labels.csv")
            assert (directory / "car_detector.npz").is_file() == bool(not_cars)
        described = [(label.make, label.model, label.body, label.year) for label in labels]
        assert described == [("Alfa Romeo", "Giulia", "Sedan", 2020), ("VW", "Käfer", None, 1972)]
