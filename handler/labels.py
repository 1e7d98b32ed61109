"""What a class name says: make, model, body and year.

The label table is one CSV file, `class_id,make,model,body,year,label`. The archive carries it
beside the weights and the worker answers from it, so the two cannot drift apart.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

__all__ = [
    "CarLabel",
    "labels_from_names",
    "parse_label",
    "read_labels",
    "stanford_cars_labels",
    "write_labels",
]

# Makes of more than one word; every other make is the first word of its class name.
_LONG_MAKES = (
    "AM General", "Alfa Romeo", "Aston Martin", "De Tomaso", "Great Wall", "Land Rover",
)  # fmt: skip

# Body styles as the data set spells them, longest first so that "Cargo Van" wins over "Van".
_BODIES = (
    "Cargo Van", "Club Cab", "Convertible", "Coupe", "Crew Cab", "Extended Cab", "Hatchback",
    "Minivan", "Passenger Van", "Quad Cab", "Regular Cab", "SUV", "Sedan", "SuperCab", "Van",
    "Wagon",
)  # fmt: skip
_BODY_SUFFIX = re.compile(r"(?P<model>.+?) (?P<body>" + "|".join(map(re.escape, _BODIES)) + r")")
_CLASS_NAME = re.compile(r"(?P<name>\S.*\S) (?P<year>(?:18|19|20)\d\d)")


@dataclass(frozen=True, slots=True)
class CarLabel:
    """One class of the model.

    Attributes:
        class_id: position in the network's output, from 0.
        make: manufacturer, e.g. "Aston Martin".
        model: model name without make, body and year, e.g. "V8 Vantage".
        body: body style, e.g. "Coupe"; None where the class name has none.
        year: model year.
        label: the class name as the data set spells it.
    """

    class_id: int
    make: str
    model: str
    body: str | None
    year: int
    label: str


def parse_label(label: str, class_id: int = 0) -> CarLabel:
    """Split a class name "MAKE MODEL [BODY] YEAR" into its parts.

    Raises:
        ValueError: the name has no make, model and year.

    >>> parse_label("Aston Martin V8 Vantage Coupe 2012", 8)
    CarLabel(class_id=8, make='Aston Martin', model='V8 Vantage', body='Coupe', year=2012, \
label='Aston Martin V8 Vantage Coupe 2012')
    """
    label = " ".join(label.split())
    whole = _CLASS_NAME.fullmatch(label)
    name = whole["name"] if whole else ""
    make = next((m for m in _LONG_MAKES if name.startswith(m + " ")), name.partition(" ")[0])
    rest = name[len(make) + 1 :]
    if not whole or not rest:
        raise ValueError(
            f"class name {label!r} is not 'MAKE MODEL [BODY] YEAR', e.g. 'Audi TTS Coupe 2012': "
            "rename the class"
        )
    # A model that is nothing but a body word ("Ford Van 1990") keeps it as its model.
    parts = _BODY_SUFFIX.fullmatch(rest)
    model, body = (parts["model"], parts["body"]) if parts else (rest, None)
    return CarLabel(class_id, make, model, body, int(whole["year"]), label)


def read_labels(path: str | Path) -> tuple[CarLabel, ...]:
    """Read a label table.

    Raises:
        ValueError: the file is no label table, or its class ids are not 0, 1, 2, … in order.
    """
    path = Path(path)
    columns = [field.name for field in fields(CarLabel)]
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != columns:
            raise ValueError(f"{path}: the header must be {','.join(columns)}")
        labels = tuple(
            CarLabel(
                class_id=int(row["class_id"]),
                make=row["make"],
                model=row["model"],
                body=row["body"] or None,
                year=int(row["year"]),
                label=row["label"],
            )
            for row in reader
        )
    if [label.class_id for label in labels] != list(range(len(labels))):
        raise ValueError(f"{path}: class_id must count 0, 1, 2, … from the first row on")
    return labels


def write_labels(labels: Sequence[CarLabel], path: str | Path) -> None:
    """Write a label table that `read_labels` reads back unchanged."""
    columns = [field.name for field in fields(CarLabel)]
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({**asdict(label), "body": label.body or ""} for label in labels)


def labels_from_names(names: Iterable[str]) -> tuple[CarLabel, ...]:
    """Parse class names, in class order, into a label table."""
    return tuple(parse_label(name, class_id) for class_id, name in enumerate(names))


def stanford_cars_labels() -> tuple[CarLabel, ...]:
    """The 196 classes of Stanford Cars, in the official order."""
    return read_labels(Path(__file__).with_name("stanford_cars.csv"))
