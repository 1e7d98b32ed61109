"""What is held out, and what thinning keeps, hangs on the photos' names and on nothing else."""

from __future__ import annotations

import hashlib
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest
from toy_cars import TOY_CLASSES, toy_photo

from lightning_train.data import CarDataModule, Sample, read_dataset, validation_paths
from lightning_train.data.subsets import choose_photos

VIEWS = ["front", "left", "rear", "right", "inside", "engine", "wheel", "seats", "boot", "badge"]


def write_views(root: Path, classes: int) -> Path:
    """Class folders whose photos have the same ten names each."""
    for number in range(classes):
        folder = root / "train" / f"Make{number:02d} Model 2015"
        folder.mkdir(parents=True)
        for view in VIEWS:
            (folder / f"{view}.jpg").touch()
    return root


def write_listings(root: Path, rows: list[str]) -> Path:
    lines = ["file,make,model,body,year", *rows]
    (root / "cars.csv").write_text("\n".join(lines), encoding="utf-8")
    return root


@pytest.fixture
def rows(tmp_path: Path) -> list[str]:
    """Table rows of 2 cars in 10 listings each, whose 7 photos are called 1.jpg … 7.jpg."""
    rows = []
    for number in range(20):
        folder = tmp_path / f"listing{number}"
        folder.mkdir()
        for photo in range(1, 8):
            (folder / f"{photo}.jpg").touch()
            rows.append(f"{folder.name}/{photo}.jpg,Make{number % 2},Model,,2015")
    return rows


def held_out(root: Path) -> set[str]:
    """Paths of the validation photos, relative to the root."""
    return {str(s.path.relative_to(root)) for s in read_dataset(root, "val").samples}


def kept(root: Path, **thinning: float) -> set[str]:
    module = CarDataModule(str(root), **thinning)  # type: ignore[arg-type]
    return {str(s.path.relative_to(root)) for s in module.dataset("train").samples}


# Archives and reports are compared with each other on these photos: they never change.
def test_the_split_is_still_that_of_the_bundled_model() -> None:
    samples = [Sample(Path(f"{number:05d}.jpg"), number % 3) for number in range(1, 61)]
    assert {path.name for path in validation_paths(samples)} == {
        "00013.jpg", "00024.jpg", "00028.jpg", "00038.jpg", "00048.jpg", "00059.jpg",
    }  # fmt: skip


def test_the_real_split_is_that_of_the_bundled_model_in_every_layout(
    cars_data: Path, tmp_path: Path
) -> None:
    train, val = (read_dataset(cars_data, split) for split in ("train", "val"))
    table = ["file,make,model,body,year"]
    for sample in train.samples + val.samples:
        label = train.labels[sample.class_id]
        folder = tmp_path / "folders/train" / label.label.replace("/", "-")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / sample.path.name).symlink_to(sample.path.resolve())
        file = f"folders/train/{folder.name}/{sample.path.name}"
        table.append(f'"{file}",{label.make},{label.model},{label.body or ""},{label.year}')
    (tmp_path / "cars.csv").write_text("\n".join(table), encoding="utf-8")
    for root in (cars_data, tmp_path / "folders", tmp_path):
        names = "\n".join(sorted(s.path.name for s in read_dataset(root, "val").samples))
        assert hashlib.sha256(names.encode()).hexdigest() == (
            "ca91b5db663bcf0448b89692e9db7821589e4fa63e16a9182d9a1eb497f1b787"
        )


def test_photos_of_the_same_names_in_every_class_are_not_held_out_all_of_one_name(
    tmp_path: Path,
) -> None:
    root = write_views(tmp_path, classes=20)
    val = [sample.path.stem for sample in read_dataset(root, "val").samples]
    assert len(val) == 20
    assert max(Counter(val).values()) <= 6  # of one view; 20 if the name alone decided
    trained = {sample.path.stem for sample in read_dataset(root, "train").samples}
    assert trained == set(VIEWS)


def test_photos_of_the_same_names_in_every_listing_are_not_held_out_all_of_one_name(
    tmp_path: Path, rows: list[str]
) -> None:
    val = held_out(write_listings(tmp_path, rows))
    assert len(val) == 14
    assert len({Path(file).name for file in val}) >= 4


def test_sorting_the_rows_of_a_table_leaves_the_split_as_it_is(
    tmp_path: Path, rows: list[str]
) -> None:
    expected = held_out(write_listings(tmp_path, rows))
    for seed in range(3):
        random.Random(seed).shuffle(rows)
        assert held_out(write_listings(tmp_path, rows)) == expected


@pytest.mark.parametrize("thinning", [{"photos_per_class": 5}, {"long_tail": 9.0}])
def test_thinning_does_not_go_by_the_name_alone_nor_by_the_order_of_the_rows(
    tmp_path: Path, rows: list[str], thinning: dict[str, float]
) -> None:
    expected = kept(write_listings(tmp_path, rows), **thinning)
    rarest = [Path(file) for file in expected if int(Path(file).parent.name[7:]) % 2]
    assert len(rarest) in (5, 7)
    assert len({file.name for file in rarest}) > 2
    random.Random(0).shuffle(rows)
    assert kept(write_listings(tmp_path, rows), **thinning) == expected


def test_the_split_does_not_depend_on_where_the_data_set_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_views(tmp_path / "here", classes=5)
    expected, few = held_out(root), kept(root, photos_per_class=3)
    moved = tmp_path / "elsewhere/and deeper"
    moved.mkdir(parents=True)
    shutil.move(root / "train", moved / "stanford_cars/train")
    inside = {str(Path("stanford_cars", file)) for file in expected}
    assert held_out(moved) == inside
    assert held_out(moved / "stanford_cars") == expected
    assert kept(moved / "stanford_cars", photos_per_class=3) == few
    monkeypatch.chdir(moved)
    assert held_out(Path("stanford_cars")) == expected


def test_photos_whose_names_differ_only_in_how_accents_are_written_have_a_fixed_order(
    tmp_path: Path,
) -> None:
    names = ["Citroe\u0308n", "Citro\u00ebn"]
    samples = [Sample(tmp_path / f"{name}.jpg", 0) for name in names]
    for order in (samples, samples[::-1]):
        assert validation_paths(order) == {tmp_path / "Citroe\u0308n.jpg"}


def test_equal_names_without_a_data_set_around_them_are_not_in_the_reading_order() -> None:
    samples = [Sample(Path(f"listing{number}/1.jpg"), 0) for number in range(30)]
    few, val = choose_photos(samples, 1, 3, None), validation_paths(samples)
    assert {s.path for s in choose_photos(samples[::-1], 1, 3, None)} == {s.path for s in few}
    assert validation_paths(samples[::-1]) == val


def test_one_name_that_comes_twice_moves_no_other_photo(tmp_path: Path) -> None:
    for number in range(40):
        folder = tmp_path / "train" / TOY_CLASSES[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        toy_photo(0, 1).resize((1, 1)).save(folder / f"{number}.png")
    keys = {s.key for split in ("train", "val") for s in read_dataset(tmp_path, split).samples}  # type: ignore[arg-type]
    assert keys == {f"{number}.png" for number in range(40)}
    again = tmp_path / "train" / TOY_CLASSES[0]
    shutil.copy(again / "0.png", tmp_path / "train" / TOY_CLASSES[1] / "0.png")
    moved = {s.key for split in ("train", "val") for s in read_dataset(tmp_path, split).samples}  # type: ignore[arg-type]
    assert moved - keys == {f"{name}/train/{name}/0.png" for name in TOY_CLASSES[:2]}
    assert keys - moved == {"0.png"}
