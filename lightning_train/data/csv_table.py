"""The table layout: `cars.csv` says of each photo which car it shows.

    file,make,model,body,year
    photos/red one.jpg,Alfa Romeo,Giulia,Sedan,2020
    photos/van.jpg,VW,T2 Kombi,,1972

`file` is relative to the table; `body` may stay empty. Optional columns: `split` (train, val or
test; without it, or without any val, the usual tenth is held out of train) and the car's box
`left,top,right,bottom` in pixels from 0 of the upright photo, right and bottom exclusive.
"""

from __future__ import annotations

import csv
import os
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import get_args

from handler.labels import CarLabel, stanford_cars_labels
from lightning_train.data.class_names import plain, spelled
from lightning_train.data.samples import CarDataset, DatasetError, Sample, Split

__all__ = ["read_csv_table"]

_REQUIRED = ("file", "make", "model", "body", "year")
_BOX = ("left", "top", "right", "bottom")
_OPTIONAL = ("split", *_BOX)
_YEAR = re.compile(r"(18|19|20)\d\d")  # what a class name may end in, see handler.labels


@dataclass(frozen=True, slots=True)
class _Row:
    line: int
    path: Path
    car: tuple[str, str, str | None, int]  # make, model, body, year
    box: tuple[int, int, int, int] | None
    split: Split

    @property
    def name(self) -> str:
        return " ".join(str(part) for part in self.car if part is not None)


def read_csv_table(table: Path) -> dict[Split, CarDataset]:
    """Read the splits that the table has rows of.

    The classes of `train` and `val` are one list, those of `test` another, each sorted by name
    (or in the official order, if they are exactly those of Stanford Cars).

    Raises:
        DatasetError: a column, a photo or a value is missing or wrong; it names the line.
    """
    rows = _read_rows(table)
    _check_files(table, rows)
    _check_names(table, rows)
    by_split: dict[Split, list[_Row]] = defaultdict(list)
    for row in rows:
        by_split[row.split].append(row)
    trained = {row.name for row in by_split["train"]}
    for row in by_split["val"]:
        if row.name not in trained:
            raise _bad(table, row.line, f"{row.name!r} has val photos but none of split train")
    return {
        split: _dataset(by_split[split], by_split["test" if split == "test" else "train"])
        for split in get_args(Split)
        if by_split[split]
    }


def _read_rows(table: Path) -> list[_Row]:
    try:
        # Spreadsheets write a byte-order mark, and in half of the world semicolons.
        text = table.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{table} is not UTF-8 text ({error}): save it as 'CSV UTF-8' in your spreadsheet"
        ) from error
    header, _, _ = text.partition("\n")
    delimiter = max(",;\t", key=header.count)
    reader = csv.DictReader(text.splitlines(keepends=True), delimiter=delimiter)
    columns = [name.strip().casefold() for name in reader.fieldnames or ()]
    _check_columns(table, columns)
    reader.fieldnames = columns
    rows = []
    for cells in reader:
        if None in cells:
            raise _bad(
                table, reader.line_num, 'more cells than the header: write "…" around a comma'
            )
        values = {name: spelled(cells[name] or "") for name in columns if name != "file"}
        values["file"] = (cells["file"] or "").strip()  # a file name may hold two spaces
        if any(values.values()):
            rows.append(_row(table, reader.line_num, values))
    if not rows:
        raise DatasetError(f"{table} has no rows under its header: one for each photo is needed")
    return rows


def _check_columns(table: Path, columns: list[str]) -> None:
    known = (*_REQUIRED, *_OPTIONAL)
    strange = [name for name in columns if name not in known]

    def near(missing: str) -> str:
        found = get_close_matches(missing, strange, n=1)
        return f" (is it {found[0]!r}?)" if found else ""

    boxes = _BOX if any(name in columns for name in _BOX) else ()
    missing = [name for name in (*_REQUIRED, *boxes) if name not in columns]
    if missing:
        raise DatasetError(
            f"{table} lacks the column{'s' if len(missing) > 1 else ''} "
            + ", ".join(f"{name!r}{near(name)}" for name in missing)
            + f"; its first line has {', '.join(map(repr, columns)) or 'nothing'}. "
            f"It should be {','.join(_REQUIRED)} (and may add {','.join(_OPTIONAL)})"
        )
    doubled = sorted({name for name in columns if columns.count(name) > 1})
    if doubled:
        raise DatasetError(f"{table} has two columns {doubled[0]!r}: rename or delete one")
    # Other columns are the user's own, but "spilt" would silently leave out the split.
    for name in _OPTIONAL:
        if name not in columns and near(name):
            raise DatasetError(
                f"{table} has a column {get_close_matches(name, strange, n=1)[0]!r}: "
                f"rename it to {name!r}, or to something less alike"
            )


def _row(table: Path, line: int, values: Mapping[str, str]) -> _Row:
    for name in ("file", "make", "model", "year"):
        if not values[name]:
            raise _bad(table, line, f"no {name}: every photo needs file, make, model and year")
    if not _YEAR.fullmatch(values["year"]):
        raise _bad(
            table, line, f"{values['year']!r} is no year: write its four digits, such as 2012"
        )
    split = values.get("split", "train").casefold()
    if split not in get_args(Split):
        raise _bad(table, line, f"split is {split!r}: write train, val or test")
    return _Row(
        line=line,
        path=Path(os.path.normpath(table.parent / values["file"])),
        car=(values["make"], values["model"], values["body"] or None, int(values["year"])),
        box=_box(table, line, values),
        split=split,  # type: ignore[arg-type]  # checked above
    )


def _box(table: Path, line: int, values: Mapping[str, str]) -> tuple[int, int, int, int] | None:
    cells = [values.get(name, "") for name in _BOX]
    if not any(cells):
        return None
    try:
        left, top, right, bottom = map(int, cells)
    except ValueError:
        left = top = right = bottom = 0
    if not (left < right and top < bottom):
        raise _bad(
            table,
            line,
            f"the box {','.join(cells)} is not left,top,right,bottom in whole pixels with "
            "left < right and top < bottom: mend it, or leave all four empty",
        )
    return left, top, right, bottom


def _check_files(table: Path, rows: list[_Row]) -> None:
    lines: dict[Path, int] = {}
    for row in rows:
        if row.path in lines:
            raise _bad(
                table, row.line, f"{row.path} is in line {lines[row.path]} already: delete one"
            )
        lines[row.path] = row.line
    missing = [row for row in rows if not row.path.is_file()]
    if missing:
        more = f" ({len(missing)} of {len(rows)} photos are missing)" if len(missing) > 1 else ""
        raise _bad(
            table,
            missing[0].line,
            f"no file {missing[0].path}{more}: file names are relative to {table.parent}",
        )


def _check_names(table: Path, rows: list[_Row]) -> None:
    """Two cars must not share a name: answers, reports and folders call a class by it."""
    first: dict[str, _Row] = {}
    for row in rows:
        other = first.setdefault(plain(row.name), row)
        if other.name != row.name:
            raise _bad(
                table,
                row.line,
                f"{row.name!r} is the same class as {other.name!r} in line {other.line}: write "
                "both the same",
            )
        if other.car != row.car:
            raise _bad(
                table,
                row.line,
                f"{row.name!r} is split into make, model and body in another way than in line "
                f"{other.line}: write both the same",
            )


def _dataset(rows: list[_Row], of_classes: list[_Row]) -> CarDataset:
    """The rows' photos, their classes those of other rows."""
    cars = {row.name: row.car for row in of_classes}
    labels = stanford_cars_labels()
    if set(cars) != {label.label for label in labels}:
        labels = tuple(
            CarLabel(class_id, *cars[name], label=name)
            for class_id, name in enumerate(sorted(cars))
        )
    class_ids = {label.label: label.class_id for label in labels}
    return CarDataset(labels, tuple(Sample(row.path, class_ids[row.name], row.box) for row in rows))


def _bad(table: Path, line: int, what: str) -> DatasetError:
    return DatasetError(f"{table}, line {line}: {what}")
