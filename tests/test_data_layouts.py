"""The data set is read the same whatever its layout, and says what is missing."""

from __future__ import annotations

import os
import random
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image
from toy_cars import BOX, SIZE, TOY_CLASSES, toy_photo, write_class_folders, write_devkit

from handler.labels import stanford_cars_labels
from lightning_train.data import (
    DatasetError,
    Sample,
    load_crop,
    read_dataset,
    validation_paths,
)


def names(dataset: object) -> set[str]:
    return {sample.path.name for sample in dataset.samples}  # type: ignore[attr-defined]


def test_devkit_and_class_folders_hold_out_the_same_photos(tmp_path: Path) -> None:
    devkit = write_devkit(tmp_path / "devkit")
    folders = write_class_folders(tmp_path / "folders")
    assert names(read_dataset(devkit, "val")) == names(read_dataset(folders, "val"))
    assert names(read_dataset(devkit, "train")) == names(read_dataset(folders, "train"))


def test_training_and_validation_share_no_photo_and_miss_none(tmp_path: Path) -> None:
    root = write_devkit(tmp_path, per_class=20)
    train, val = read_dataset(root, "train"), read_dataset(root, "val")
    assert not names(train) & names(val)
    assert len(names(train) | names(val)) == 60
    assert Counter(sample.class_id for sample in val.samples) == {0: 2, 1: 2, 2: 2}


def test_the_split_does_not_depend_on_the_reading_order() -> None:
    samples = [Sample(Path(f"{i:05d}.jpg"), i % 7) for i in range(300)]
    expected = validation_paths(samples)
    random.Random(3).shuffle(samples)
    assert validation_paths(samples) == expected


def test_photos_added_to_one_class_leave_the_split_of_the_others(tmp_path: Path) -> None:
    samples = [Sample(Path(f"{i:05d}.jpg"), i % 7) for i in range(300)]
    more = samples + [Sample(Path(f"new{i}.jpg"), 3) for i in range(50)]
    added = {sample.path for sample in more if sample.class_id == 3}
    assert validation_paths(samples) - added == validation_paths(more) - added


def test_a_box_is_cropped_with_its_margin(tmp_path: Path) -> None:
    sample = read_dataset(write_devkit(tmp_path), "train").samples[0]
    left, top, right, bottom = BOX
    # 16 px on each side, but never beyond the photo: 20-1-16 = 3; 10-1-16 < 0; 80+16; 50+16 > 64
    expected = Image.open(sample.path).crop((3, 0, 96, 64))
    assert np.array_equal(np.asarray(load_crop(sample, 32)), np.asarray(expected))
    assert sample.box == (left - 1, top - 1, right, bottom)


def test_a_crop_that_is_whole_already_passes_through(tmp_path: Path) -> None:
    sample = read_dataset(write_devkit(tmp_path, whole_box=True), "train").samples[0]
    assert load_crop(sample, 32).size == SIZE


def test_the_official_test_split_is_read_without_the_training_photos(tmp_path: Path) -> None:
    root = write_devkit(tmp_path, per_class=4, split="test")
    dataset = read_dataset(root, "test")
    assert len(dataset.samples) == 12
    assert [label.label for label in dataset.labels] == TOY_CLASSES
    with pytest.raises(DatasetError, match=r"cars_train_annos\.mat"):
        read_dataset(root, "train")


def test_the_stanford_cars_folder_itself_may_be_the_root(tmp_path: Path) -> None:
    root = write_devkit(tmp_path, per_class=4)
    assert names(read_dataset(root / "stanford_cars", "train")) == names(
        read_dataset(root, "train")
    )


def test_class_folders_of_official_names_get_the_official_class_ids(tmp_path: Path) -> None:
    for label in stanford_cars_labels():
        folder = tmp_path / "train" / label.label.replace("/", "-").swapcase()
        folder.mkdir(parents=True)
        toy_photo(0, 1).resize((2, 2)).save(folder / f"{label.class_id}.png")
    dataset = read_dataset(tmp_path, "train")
    assert dataset.labels == stanford_cars_labels()
    assert [sample.class_id for sample in dataset.samples] == list(range(196))
    assert all(sample.path.name == f"{sample.class_id}.png" for sample in dataset.samples)


def test_class_folders_of_ones_own_cars_are_numbered_by_name(tmp_path: Path) -> None:
    for name in ("Zastava Yugo Hatchback 1987", "Alfa Romeo Giulia Sedan 2020"):
        (tmp_path / "train" / name).mkdir(parents=True)
        toy_photo(0, 1).save(tmp_path / "train" / name / "1.jpg")
    labels = read_dataset(tmp_path, "train").labels
    assert [(label.class_id, label.make) for label in labels] == [(0, "Alfa Romeo"), (1, "Zastava")]


def test_an_empty_folder_says_what_is_missing_and_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"cars_train_annos\.mat.*Kaggle"):
        read_dataset(tmp_path, "train")


def test_a_missing_photo_is_named(tmp_path: Path) -> None:
    root = write_devkit(tmp_path)
    (root / "stanford_cars/cars_train/00002.jpg").unlink()
    with pytest.raises(DatasetError, match=r"1 are missing.*00002\.jpg"):
        read_dataset(root, "train")


def test_a_broken_annotation_file_is_named(tmp_path: Path) -> None:
    root = write_devkit(tmp_path)
    (root / "stanford_cars/devkit/cars_train_annos.mat").write_bytes(b"<html>Not found</html>")
    with pytest.raises(DatasetError, match=r"cars_train_annos\.mat is not the devkit's file"):
        read_dataset(root, "train")


def test_annotations_of_more_classes_than_have_names_are_refused(tmp_path: Path) -> None:
    root = write_devkit(tmp_path)
    meta = root / "stanford_cars/devkit/cars_meta.mat"
    scipy.io.savemat(meta, {"class_names": np.array(TOY_CLASSES[:2], dtype=object)})
    with pytest.raises(DatasetError, match=r"photos of class 3, but only 2 classes have names"):
        read_dataset(root, "train")


def test_two_folders_of_one_class_are_refused(tmp_path: Path) -> None:
    write_class_folders(tmp_path, per_class=2)
    (tmp_path / "train" / "audi_TTS-coupe_2012").mkdir()
    with pytest.raises(DatasetError, match="are the same class"):
        read_dataset(tmp_path, "train")


def test_the_split_does_not_depend_on_how_a_file_system_writes_accents(tmp_path: Path) -> None:
    composed = [Sample(Path(f"Škoda №{i}.jpg"), 0) for i in range(50)]
    decomposed = [Sample(Path(unicodedata.normalize("NFD", s.path.name)), 0) for s in composed]
    assert composed != decomposed
    assert validation_paths(composed) == {
        Path(unicodedata.normalize("NFC", path.name)) for path in validation_paths(decomposed)
    }


def test_a_photo_whose_name_is_no_unicode_has_its_place(tmp_path: Path) -> None:
    samples = [Sample(Path(os.fsdecode(b"M\xfcller %d.jpg" % i)), 0) for i in range(10)]
    assert len(validation_paths(samples)) == 1


def test_the_real_split_holds_out_a_tenth_of_every_class(cars_data: Path) -> None:
    train, val = read_dataset(cars_data, "train"), read_dataset(cars_data, "val")
    assert len(train.samples) + len(val.samples) == 8144
    assert len(val.samples) == 812
    trained = Counter(sample.class_id for sample in train.samples)
    held_out = Counter(sample.class_id for sample in val.samples)
    assert set(held_out) == set(trained) == set(range(196))
    for class_id, count in held_out.items():
        assert abs(count - (count + trained[class_id]) / 10) <= 0.5
