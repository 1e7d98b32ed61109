"""Class folders: a `val` of one's own, files that are no photos, names that are one class."""

from __future__ import annotations

import unicodedata
import warnings
from pathlib import Path

import pytest
from PIL import Image
from toy_cars import OWN_CARS, TOY_CLASSES, toy_photo, write_class_folders, write_table

from lightning_train.data import CarDataModule, DatasetError, read_dataset

AUDI, BMW = TOY_CLASSES[:2]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_class_folders(tmp_path, per_class=10)


def parts(root: Path, split: str) -> list[str]:
    """The folder beside which each photo of a split lies: train, val or test."""
    samples = read_dataset(root, split).samples  # type: ignore[arg-type]
    return [sample.path.relative_to(root).parts[0] for sample in samples]


# --- val/ ---------------------------------------------------------------------------------------


def test_a_folder_val_is_validated_on_and_nothing_is_held_out_of_train(root: Path) -> None:
    write_class_folders(root, per_class=4, split="val")
    write_class_folders(root, per_class=2, split="test")
    assert parts(root, "train") == ["train"] * 30
    assert parts(root, "val") == ["val"] * 12
    assert parts(root, "test") == ["test"] * 6
    assert CarDataModule(str(root), size=32).class_counts == [10, 10, 10]


def test_the_classes_of_a_folder_val_have_the_ids_of_training(root: Path) -> None:
    write_class_folders(root, per_class=4, split="val")
    for path in (root / "val" / AUDI).iterdir():
        path.unlink()  # an empty folder is as good as none
    (root / "val" / BMW).rename(root / "val" / "bmw_X5 suv 2007")
    module = CarDataModule(str(root), size=32, batch_size=4)
    assert module.class_names == TOY_CLASSES
    val = module.dataset("val").samples
    assert {(s.class_id, s.path.parent.name[:3]) for s in val} == {(1, "bmw"), (2, "Ram")}
    module.setup("fit")
    labels = [int(label) for batch in module.val_dataloader() for label in batch["label"]]
    assert sorted(labels) == [1] * 4 + [2] * 4


def test_a_folder_val_is_thinned_out_with_the_classes_but_not_with_the_photos(root: Path) -> None:
    write_class_folders(root, per_class=4, split="val")
    module = CarDataModule(str(root), max_classes=2, photos_per_class=3)
    assert len(module.dataset("train").samples) == 6
    assert len(module.dataset("val").samples) == 8


def test_a_class_in_val_that_training_lacks_is_named_with_its_folder(root: Path) -> None:
    write_class_folders(root, per_class=4, split="val")
    (root / "val" / BMW).rename(root / "val" / "BMW X6 SUV 2007")
    for split in ("train", "val"):
        with pytest.raises(DatasetError, match=r"val/BMW X6 SUV 2007 is a class that training la"):
            read_dataset(root, split)  # type: ignore[arg-type]


def test_a_folder_val_without_photos_is_refused(root: Path) -> None:
    (root / "val").mkdir()
    with pytest.raises(DatasetError, match=r"val holds no photos \(\.heic, .*\) in class folders"):
        read_dataset(root, "val")


@pytest.mark.parametrize("name", ["valid", "Validation"])
def test_a_folder_that_seems_meant_as_val_is_not_ignored(root: Path, name: str) -> None:
    write_class_folders(root, per_class=4, split=name)
    with pytest.raises(DatasetError, match=rf"{name} is not read: rename it to 'val' if"):
        read_dataset(root, "train")
    write_class_folders(root, per_class=4, split="val")  # then it is something else
    assert parts(root, "val") == ["val"] * 12


def test_the_test_photos_can_be_read_whatever_is_wrong_with_the_others(root: Path) -> None:
    write_class_folders(root, per_class=2, split="test")
    (root / "train" / "Zastava Yugo Hatchback 1987").mkdir()
    (root / "valid").mkdir()
    (root / "test" / "Zastava Yugo Hatchback 1987").mkdir()  # nor need each class be tested
    assert parts(root, "test") == ["test"] * 6


# --- files that are no photos ------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jpe", ".jfif", ".JFIF"])
def test_the_rarer_suffixes_of_jpeg_files_are_read(root: Path, suffix: str) -> None:
    for path in (root / "train" / BMW).iterdir():
        path.rename(path.with_suffix(suffix))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module = CarDataModule(str(root), size=32, batch_size=9)
        assert module.class_counts == [9, 9, 9]
        module.setup("fit")  # which decodes them


def test_a_class_to_train_on_without_photos_is_refused(root: Path) -> None:
    for number in range(3):
        (root / "train" / BMW / f"{number}.gif").touch()
    for path in (root / "train" / BMW).glob("*.jpg"):
        path.rename(path.with_suffix(".BMP"))
    message = (
        r"train/BMW X5 SUV 2007 holds no photos but 10 \.bmp, 3 \.gif: put some in "
        r"\(\.heic, .*\.jfif.* are read\), or delete the folder"
    )
    with pytest.raises(DatasetError, match=message):
        read_dataset(root, "train")


def test_classes_without_any_files_are_counted(root: Path) -> None:
    for name in ("Zastava Yugo Hatchback 1987", "VW Käfer 1972"):
        (root / "train" / name).mkdir()
    message = r"train/VW Käfer 1972 holds no photos \(2 class folders in .*train are so\): put"
    with pytest.raises(DatasetError, match=message):
        read_dataset(root, "train")


def test_files_that_are_no_photos_are_counted_once_with_their_suffixes(root: Path) -> None:
    for number in range(3):
        (root / "train" / AUDI / f"{number}.gif").touch()
    (root / "train" / BMW / "notes").touch()
    (root / "train" / BMW / "more").mkdir()
    toy_photo(0, 1).save(root / "train" / BMW / "more" / "1.jpg")
    toy_photo(0, 1).save(root / "train" / "loose.jpg")
    module = CarDataModule(str(root), size=32)
    with pytest.warns(UserWarning, match="Left out") as caught:
        module.setup("fit")
    assert module.class_counts == [9, 9, 9]
    told = [str(warning.message) for warning in caught]
    assert len(told) == 2
    assert f"folders in {root / 'train'}: 3 .gif, 1 without a suffix, 1 folder. Photos" in told[0]
    assert f"photos in {root / 'train'} that are in no class folder, 1 in all" in told[1]
    assert "loose.jpg" in told[1]


def test_hidden_files_and_folders_are_not_looked_at(root: Path) -> None:
    expected = read_dataset(root, "train")
    (root / "train" / ".ipynb_checkpoints").mkdir()
    for name in (".DS_Store", "._00001.jpg", "Thumbs.db", "desktop.ini"):
        (root / "train" / BMW / name).touch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_dataset(root, "train") == expected


# --- names, and how many there are --------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("VW Golf Hatchback 2015", "Vw golf Hatchback 2015"),
        ("VW Golf Hatchback 2015", "VW_Golf-Hatchback 2015"),
        ("Citroën C3 2010", unicodedata.normalize("NFD", "Citroën C3 2010")),
    ],
)
def test_two_folders_that_are_one_of_ones_own_cars_are_refused(
    root: Path, one: str, other: str
) -> None:
    for name in (one, other):
        (root / "train" / name).mkdir()
    with pytest.raises(DatasetError, match=r"are the same class: make them one"):
        read_dataset(root, "train")


def test_a_class_is_the_same_however_a_file_system_writes_its_accents(root: Path) -> None:
    write_class_folders(root, per_class=2, split="test")
    name = "Citroën C3 2010"
    for split, form in (("train", "NFC"), ("test", "NFD")):
        (root / split / BMW).rename(root / split / unicodedata.normalize(form, name))  # type: ignore[arg-type]
    module = CarDataModule(str(root))
    assert module.class_names == [AUDI, name, TOY_CLASSES[2]]
    assert {sample.class_id for sample in module.dataset("test").samples} == {0, 1, 2}


def test_a_single_class_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    folder = tmp_path / "folders/train" / AUDI
    folder.mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (4, 4)).save(folder / f"{number}.png")
    table = write_table(tmp_path / "table", OWN_CARS[:1], [4])
    for root, name in ((tmp_path / "folders", AUDI), (table, "Alfa Romeo Giulia Sedan 2020")):
        message = rf"{root.name} has one class only, '{name}': a classifier needs two or more; add"
        with pytest.raises(DatasetError, match=message):
            _ = CarDataModule(str(root)).class_names
        with pytest.raises(DatasetError, match=message):
            CarDataModule(str(root)).setup("fit")
        assert len(read_dataset(root, "val").samples) == 1  # an archive may be measured on it
