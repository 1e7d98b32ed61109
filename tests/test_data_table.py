"""One's own cars as a table: taken as written, and every mistake named with its line."""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image
from toy_cars import OWN_CARS, write_table

from handler.labels import CarLabel, stanford_cars_labels
from lightning_train.data import (
    CarDataModule,
    DatasetError,
    load_crop,
    read_dataset,
    validation_paths,
)

Rows = list[dict[str, str]]


def rewrite(root: Path, change: Callable[[Rows], Rows | None], **format: str) -> Path:
    """Change the table's rows, in place or by returning others, and return root."""
    with (root / "cars.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    rows = change(rows) or rows
    with (root / "cars.csv").open(
        "w", encoding=format.pop("encoding", "utf-8"), newline=""
    ) as file:
        writer = csv.DictWriter(file, list(rows[0]), **format)  # type: ignore[arg-type]
        writer.writeheader()
        writer.writerows(rows)
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_table(tmp_path, OWN_CARS, [10, 10, 10])


def test_make_model_body_and_year_are_what_was_written(root: Path) -> None:
    assert read_dataset(root, "train").labels == (
        CarLabel(0, "Alfa Romeo", "Giulia", "Sedan", 2020, "Alfa Romeo Giulia Sedan 2020"),
        CarLabel(
            1, "DS Automobiles", "DS 3 Crossback", None, 2019, "DS Automobiles DS 3 Crossback 2019"
        ),
        CarLabel(2, "Škoda", "Octavia", "Wagon", 2016, "Škoda Octavia Wagon 2016"),
    )


def test_a_tenth_is_held_out_of_a_table_without_splits(root: Path) -> None:
    train, val = read_dataset(root, "train").samples, read_dataset(root, "val").samples
    assert {sample.path for sample in val} == validation_paths(train + val)
    assert (len(train), len(val)) == (27, 3)
    with pytest.raises(DatasetError, match=r"no rows of split 'test': .* column 'split'"):
        read_dataset(root, "test")


def test_the_table_says_which_photos_are_held_out(root: Path) -> None:
    def mark(rows: Rows) -> None:
        for number, row in enumerate(rows):
            row["split"] = ["train", "Val", "test", "train", "train"][number % 5]

    rewrite(root, mark)
    sizes = [len(read_dataset(root, split).samples) for split in ("train", "val", "test")]
    assert sizes == [18, 6, 6]
    rewrite(
        root, lambda rows: [row | {"split": row["split"].replace("Val", "train")} for row in rows]
    )
    sizes = [len(read_dataset(root, split).samples) for split in ("train", "val", "test")]
    assert sizes == [21, 3, 6]  # without any val, the usual tenth of train


def test_the_classes_of_a_split_that_lacks_some_keep_their_ids(root: Path) -> None:
    def mark(rows: Rows) -> None:
        for number, row in enumerate(rows):
            row["split"] = "test" if number % 5 == 0 and row["make"] != "Alfa Romeo" else "train"

    module = CarDataModule(str(rewrite(root, mark)))
    assert {sample.class_id for sample in module.dataset("test").samples} == {1, 2}
    assert module.dataset("test").labels == module.dataset("train").labels


def test_a_table_of_all_official_cars_has_the_official_order(tmp_path: Path) -> None:
    cars = [(c.make, c.model, c.body or "", c.year) for c in reversed(stanford_cars_labels())]
    write_table(tmp_path, [("A", "B", "", 2000)], [1])
    photo = next((tmp_path / "Fotos für Übungen").iterdir())
    lines = ["file,make,model,body,year"]
    for number, car in enumerate(cars):
        photo.with_name(f"{number}.png").write_bytes(photo.read_bytes())
        lines.append(f"{photo.parent.name}/{number}.png," + ",".join(map(str, car)))
    (tmp_path / "cars.csv").write_text("\n".join(lines), encoding="utf-8")
    dataset = read_dataset(tmp_path, "train")
    assert dataset.labels == stanford_cars_labels()
    assert dataset.samples[0].class_id == 195
    (tmp_path / "cars.csv").write_text("\n".join(lines[:-1]), encoding="utf-8")
    labels = read_dataset(tmp_path, "train").labels
    assert [label.label for label in labels] == sorted(label.label for label in labels)


def test_accents_in_pieces_and_in_one_are_the_same_car(root: Path) -> None:
    expected = read_dataset(root, "train")

    def decompose(rows: Rows) -> None:
        for row in rows[1::2]:
            row["make"] = unicodedata.normalize("NFD", row["make"])

    assert read_dataset(rewrite(root, decompose), "train") == expected
    assert expected.labels[2].make == "Škoda"


def test_what_is_held_out_is_not_trained_on_even_if_test_is_read_first(root: Path) -> None:
    def mark(rows: Rows) -> None:
        for number, row in enumerate(rows):
            row["split"] = "test" if number % 5 == 0 else "train"

    module = CarDataModule(str(rewrite(root, mark)))
    assert len(module.dataset("test").samples) == 6
    train, val = ({s.path for s in module.dataset(split).samples} for split in ("train", "val"))
    assert (len(train), len(val)) == (21, 3)
    assert not train & val


def test_boxes_are_cropped_with_their_margin_and_may_be_missing(root: Path) -> None:
    def draw(rows: Rows) -> None:
        for row in rows:
            row |= dict.fromkeys(("left", "top", "right", "bottom"), "")
        rows[0] |= {"left": "40", "top": "30", "right": "60", "bottom": "40"}

    samples = {s.path: s for s in read_dataset(rewrite(root, draw), "train").samples}
    boxed = next(sample for sample in samples.values() if sample.box)
    assert boxed.path.name == "Giulia №0.png"
    assert boxed.box == (40, 30, 60, 40)
    expected = Image.open(boxed.path).crop((24, 14, 76, 56))
    assert np.array_equal(np.asarray(load_crop(boxed, 32)), np.asarray(expected))
    assert sum(sample.box is not None for sample in samples.values()) == 1


def test_a_box_on_a_large_photo_is_in_its_own_pixels(root: Path) -> None:
    path = root / "Fotos für Übungen/Giulia №1.png"
    large = Image.open(path).resize((960, 640))
    large.save(path)
    rewrite(root, box("400", "300", "600", "400"))
    sample = next(s for s in read_dataset(root, "train").samples if s.path == path)
    expected = large.crop((384, 284, 616, 416))
    assert np.array_equal(np.asarray(load_crop(sample, 32)), np.asarray(expected))


def test_a_box_is_drawn_on_the_photo_as_a_viewer_shows_it(root: Path) -> None:
    def draw(rows: Rows) -> Rows:
        path = root / rows[1]["file"]
        upright = Image.open(path)
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6  # turn clockwise to see it upright
        upright.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
        empty = {"left": "", "top": "", "right": "", "bottom": ""}
        box = {"left": "70", "top": "10", "right": "90", "bottom": "30"}
        return [row | (box if number == 1 else empty) for number, row in enumerate(rows)]

    expected = Image.open(root / "Fotos für Übungen/Giulia №1.png").crop((54, 0, 96, 46))
    expected.load()
    samples = read_dataset(rewrite(root, draw), "train").samples
    boxed = next(sample for sample in samples if sample.box)
    assert np.array_equal(np.asarray(load_crop(boxed, 32)), np.asarray(expected))


def test_a_box_beside_the_photo_is_named(root: Path) -> None:
    box = {"left": "200", "top": "10", "right": "300", "bottom": "30"}
    rewrite(root, lambda rows: [row | box for row in rows])
    with pytest.raises(DatasetError, match=r"96×64 pixels, none of them in its box \(200, 10"):
        load_crop(read_dataset(root, "train").samples[0], 32)


@pytest.mark.parametrize(
    "format",
    [{"encoding": "utf-8-sig", "delimiter": ";"}, {"delimiter": "\t"}],
    ids=["; and BOM", "tab"],
)
def test_tables_as_spreadsheets_write_them_are_read(root: Path, format: dict[str, str]) -> None:
    expected = read_dataset(root, "train")

    def spread(rows: Rows) -> Rows:
        spread = [{name.upper(): f" {cell}  " for name, cell in row.items()} for row in rows]
        return [*spread, dict.fromkeys(spread[0], "")]  # an empty last row

    assert read_dataset(rewrite(root, spread, **format), "train") == expected


def cell(line: int, **cells: str) -> Callable[[Rows], Rows]:
    """Change the row in this line of the file, whose first line is the header."""
    return lambda rows: [row | (cells if n == line else {}) for n, row in enumerate(rows, 2)]


def every(**cells: str) -> Callable[[Rows], Rows]:
    return lambda rows: [row | cells for row in rows]


def header(*names: str) -> Callable[[Rows], Rows]:
    return lambda rows: [dict(zip(names, row.values(), strict=False)) for row in rows]


def box(*cells: str) -> Callable[[Rows], Rows]:
    return every(**dict(zip(("left", "top", "right", "bottom"), cells, strict=True)))


def val_until(line: int) -> Callable[[Rows], Rows]:
    return lambda rows: [
        row | {"split": "val" if n <= line else "train"} for n, row in enumerate(rows, 2)
    ]


AGAIN = "Fotos für Übungen/../Fotos für Übungen/Giulia №0.png"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            header("file", "Maker", "model", "body", "year"),
            r"lacks the column 'make' \(is it 'maker'\?\); its first line has 'file', 'maker'",
        ),
        (header("file", "label"), r"lacks the columns 'make', 'model', 'body', 'year'; .*'label'"),
        (every(left="1", top="2"), r"lacks the columns 'right', 'bottom'"),
        (every(spilt="val"), r"has a column 'spilt': rename it to 'split'"),
        (cell(3, file="gone.png"), r"line 3: no file .*gone\.png: file names are relative to"),
        (every(file="gone.png"), r"line 3: .*gone\.png is in line 2 already: delete one"),
        (cell(6, file=AGAIN), r"line 6: .* is in line 2 already"),
        (cell(4, year="MMXX"), r"line 4: 'MMXX' is no year: .*such as 2012"),
        (cell(4, year="20"), r"line 4: '20' is no year"),
        (cell(5, year=""), r"line 5: no year"),
        (cell(5, make=" "), r"line 5: no make"),
        (every(split="valid"), r"line 2: split is 'valid': write train, val or test"),
        (val_until(11), r"line 2: 'Alfa Romeo .* 2020' has val photos but none of split train"),
        (
            cell(7, make="Alfa", model="Romeo Giulia"),
            r"line 7: 'Alfa .* another way than in line 2",
        ),
        (
            cell(7, make="ALFA romeo"),
            r"line 7: 'ALFA romeo Giulia .* is the same class as 'Alfa Romeo Giulia .* in line 2",
        ),
        (
            cell(13, model="DS-3 Crossback"),
            r"line 13: '.* DS-3 Crossback 2019' is the same class as '.* in line 12: write",
        ),
        (box("1", "2", "1", "40"), r"line 2: the box 1,2,1,40 is not left,top,right,bottom"),
        (box("1", "2", "9.5", "40"), r"line 2: the box 1,2,9\.5,40 is not"),
        (box("1", "", "30", "40"), r"line 2: the box 1,,30,40 is not"),
    ],
)
def test_a_mistake_is_named_with_its_line(
    root: Path, change: Callable[[Rows], Rows], message: str
) -> None:
    rewrite(root, change)
    with pytest.raises(DatasetError, match=message):
        read_dataset(root, "train")


def test_many_missing_photos_are_counted(root: Path) -> None:
    (root / "Fotos für Übungen").rename(root / "Fotos")
    with pytest.raises(DatasetError, match=r"line 2: no file .*30 of 30 photos are missing"):
        read_dataset(root, "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"lacks the columns 'file', .* its first line has nothing"),
        (b"file,make,model,body,year\n", "no rows under its header"),
        (b"file,make,model,body,year\na.png,VW,T2,Kombi, Camper,1972\n", "line 2: more cells"),
        (b"file,make,model,body,year,make\n", "two columns 'make'"),
        (
            "file,make,model,body,year\nü.png,VW,T2,,1972\n".encode("latin-1"),
            "not UTF-8.*CSV UTF-8",
        ),
    ],
)
def test_a_table_that_is_none_says_why(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "cars.csv").write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        read_dataset(tmp_path, "train")


def test_a_class_with_a_single_photo_is_trained_and_not_held_out(tmp_path: Path) -> None:
    module = CarDataModule(str(write_table(tmp_path, OWN_CARS[:2], [1, 5])), size=32, batch_size=2)
    assert module.class_counts == [1, 4]
    module.setup("fit")
    assert [len(batch["label"]) for batch in module.val_dataloader()] == [1]


def test_photos_too_few_to_hold_any_out_are_refused(tmp_path: Path) -> None:
    module = CarDataModule(str(write_table(tmp_path, OWN_CARS[:2], [1, 1])), size=32)
    with pytest.raises(DatasetError, match=r"no val photos .* two or more"):
        module.setup("fit")
