"""Photos that cannot be decoded: an archive is built, and measured, without them if one says so."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import pytorch_lightning as pl
from toy_cars import write_devkit, write_other_photos
from toy_training import toy_data, toy_model, toy_trainer

from lightning_train.archive import archive
from lightning_train.data import DatasetError, read_dataset
from lightning_train.evaluation.evaluate import evaluate
from lightning_train.evaluation.photo_sets import PhotoSets

TRAIN, VAL = 54, 6  # of the toy cars
OTHERS, UNSEEN = 12, 3


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with photos of other things and of other cars."""
    root = write_devkit(tmp_path_factory.mktemp("data"))
    write_other_photos(root / "not_cars", OTHERS)
    write_other_photos(root / "unseen_cars", UNSEEN)
    return root


@pytest.fixture(scope="module")
def checkpoint(good: Path) -> Path:
    pl.seed_everything(0, verbose=False)
    trainer = toy_trainer(good / "runs", 2)
    trainer.fit(toy_model(), toy_data(good))
    trainer.save_checkpoint(good / "toy.ckpt")
    return good / "toy.ckpt"


@pytest.fixture
def broken(good: Path, tmp_path: Path) -> Path:
    """A copy with a bad file in each set of photos."""
    root = tmp_path / "broken"
    shutil.copytree(good, root, ignore=shutil.ignore_patterns("runs", "*.ckpt"))
    for path in (
        *(read_dataset(root, split).samples[1].path for split in ("train", "val")),
        *(root / "not_cars" / f"{number:02d}.png" for number in (2, 5)),
        root / "unseen_cars" / "00.png",
    ):
        path.write_text("no photo")
    return root


def test_an_archive_is_built_and_measured_without_them(
    checkpoint: Path, broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mar = tmp_path / "car_identifier.mar"
    archive(checkpoint, "1.0", broken, mar, engine="torch", scenes=48, unreadable="skip")
    told = capsys.readouterr().out
    sets = {"train split": TRAIN, "val split": VAL, "unseen_cars": UNSEEN}
    for name, count in sets.items():
        assert told.count(f"{name}: 1 of {count} photos cannot be used") == 1
    assert told.count("not_cars: 1 of ") == 2, "one of those to fit, one of those to measure"
    with zipfile.ZipFile(mar) as content:
        provenance = json.loads(content.read("model.json"))["provenance"]
    assert (provenance["training_photos"], provenance["validation_photos"]) == (TRAIN - 1, VAL - 1)

    result = evaluate(mar, broken, "val", tmp_path / "report", "skip")
    assert result["figures"]["photos"] == VAL - 1
    counts = {name: figures["photos"] for name, figures in result["outside"].items()}
    measured = PhotoSets(broken, 32).others("not_cars", "measure")
    assert counts == {"not_cars": len(measured) - 1, "unseen_cars": UNSEEN - 1}

    with pytest.raises(DatasetError, match="cannot be read as an image"):
        evaluate(mar, broken, "val", tmp_path / "report")


def test_without_a_word_they_are_an_error(checkpoint: Path, broken: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"cannot be read as an image .* Replace or delete it"):
        archive(checkpoint, "1.0", broken, tmp_path / "x.mar", engine="torch", scenes=48)
    assert not (tmp_path / "x.mar").exists()


def test_no_photo_changes_sides_if_others_come_or_go(good: Path, broken: Path) -> None:
    """An archive that exists is not measured on what its detector was fitted to."""
    shutil.copy(good / "not_cars" / "00.png", broken / "not_cars" / "0.png")  # the first of all
    for part in ("fit", "measure"):
        whole = {path.name for path in PhotoSets(good, 32).others("not_cars", part)}
        rest = {path.name for path in PhotoSets(broken, 32, "skip").others("not_cars", part)}
        assert rest - {"0.png"} == whole - {"02.png", "05.png"}
        assert len(whole) > 1


def test_a_split_of_which_nothing_is_left_is_refused(broken: Path) -> None:
    for sample in read_dataset(broken, "val").samples:
        sample.path.write_bytes(b"")
    with pytest.raises(DatasetError, match="0 usable val photos"):
        PhotoSets(broken, 32, "skip").split("val")


def test_of_a_handful_one_is_fitted_to(tmp_path: Path) -> None:
    names = [f"{letter}.jpg" for letter in "abce"]  # all of the half to measure on
    (tmp_path / "not_cars").mkdir()
    for name in names:
        (tmp_path / "not_cars" / name).touch()
    found = {
        part: [path.name for path in PhotoSets(tmp_path, 32).others("not_cars", part)]
        for part in ("fit", "measure")
    }
    assert found == {"fit": names[:1], "measure": names[1:]}
