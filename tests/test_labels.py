"""Class names become make, model, body and year."""

from __future__ import annotations

from pathlib import Path

import pytest

from handler.labels import (
    CarLabel,
    parse_label,
    read_labels,
    stanford_cars_labels,
    write_labels,
)

LABELS = stanford_cars_labels()


@pytest.mark.parametrize("expected", LABELS, ids=lambda label: label.label)
def test_every_class_name_parses_into_the_table_row(expected: CarLabel) -> None:
    assert parse_label(expected.label, expected.class_id) == expected


@pytest.mark.parametrize("label", LABELS, ids=lambda label: label.label)
def test_no_word_of_a_class_name_is_lost_or_doubled(label: CarLabel) -> None:
    parts = [label.make, label.model, label.body or "", str(label.year)]
    assert " ".join(part for part in parts if part) == label.label


@pytest.mark.parametrize(
    ("name", "make", "model", "body", "year"),
    [
        # makes of two words
        ("AM General Hummer SUV 2000", "AM General", "Hummer", "SUV", 2000),
        ("Aston Martin V8 Vantage Coupe 2012", "Aston Martin", "V8 Vantage", "Coupe", 2012),
        ("Land Rover Range Rover SUV 2012", "Land Rover", "Range Rover", "SUV", 2012),
        # makes whose spelling is their own
        (
            "Rolls-Royce Phantom Drophead Coupe Convertible 2012",
            "Rolls-Royce", "Phantom Drophead Coupe", "Convertible", 2012,
        ),
        ("smart fortwo Convertible 2012", "smart", "fortwo", "Convertible", 2012),
        ("MINI Cooper Roadster Convertible 2012", "MINI", "Cooper Roadster", "Convertible", 2012),
        # a slash in the model, two body words at the end
        ("Ram C/V Cargo Van Minivan 2012", "Ram", "C/V Cargo Van", "Minivan", 2012),
        # body styles of two words
        ("Dodge Sprinter Cargo Van 2009", "Dodge", "Sprinter", "Cargo Van", 2009),
        ("Ford F-450 Super Duty Crew Cab 2012", "Ford", "F-450 Super Duty", "Crew Cab", 2012),
        # no body at all, or one that is not at the end
        ("Acura Integra Type R 2001", "Acura", "Integra Type R", None, 2001),
        ("Infiniti G Coupe IPL 2012", "Infiniti", "G Coupe IPL", None, 2012),
        # numbers that are no years
        ("Audi 100 Sedan 1994", "Audi", "100", "Sedan", 1994),
        ("Ferrari 458 Italia Coupe 2012", "Ferrari", "458 Italia", "Coupe", 2012),
    ],
)  # fmt: skip
def test_traps(name: str, make: str, model: str, body: str | None, year: int) -> None:
    label = parse_label(name)
    assert (label.make, label.model, label.body, label.year) == (make, model, body, year)


def test_the_table_has_196_classes_of_49_makes() -> None:
    assert len(LABELS) == 196
    assert len({label.make for label in LABELS}) == 49
    assert len({label.label for label in LABELS}) == 196


@pytest.mark.parametrize("name", ["", "Audi", "Audi TTS", "Audi 2012", "2012", "Audi TTS 20120"])
def test_a_name_that_is_no_class_says_what_a_class_is_called(name: str) -> None:
    with pytest.raises(ValueError, match=r"MAKE MODEL \[BODY\] YEAR"):
        parse_label(name)


def test_a_label_table_survives_writing_and_reading(tmp_path: Path) -> None:
    write_labels(LABELS, tmp_path / "labels.csv")
    assert read_labels(tmp_path / "labels.csv") == LABELS


@pytest.mark.parametrize(
    "text",
    [
        "id,name\n0,Audi\n",  # another header
        "class_id,make,model,body,year,label\n1,Audi,TTS,Coupe,2012,Audi TTS Coupe 2012\n",
    ],
)
def test_a_wrong_label_table_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"labels\.csv"):
        read_labels(path)


def test_the_table_is_the_devkits(cars_data: Path) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    meta = scipy_io.loadmat(cars_data / "stanford_cars/devkit/cars_meta.mat", squeeze_me=True)
    assert [str(name) for name in meta["class_names"]] == [label.label for label in LABELS]
