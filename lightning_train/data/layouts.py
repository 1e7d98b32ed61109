"""Find the photos of Stanford Cars, or of your own cars, on disk.

Three layouts are read:

- table: `ROOT/cars.csv`, see `lightning_train.data.csv_table`. For your own cars: make, model, body
  and year are what you write;
- devkit: Stanford Cars as torchvision reads it, see `lightning_train.data.devkit`;
- class folders: `train/<class name>/*.jpg`, `test/<class name>/*.jpg`, one folder per class named
  "MAKE MODEL [BODY] YEAR", see `lightning_train.data.class_folders`.

Devkit and class folders are looked for in ROOT and in ROOT/stanford_cars.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from lightning_train.data.class_folders import read_class_folders
from lightning_train.data.csv_table import read_csv_table
from lightning_train.data.devkit import annotation_file, read_devkit
from lightning_train.data.samples import WHERE_TO_GET_IT, CarDataset, DatasetError, Split
from lightning_train.data.splits import hold_out

__all__ = ["read_dataset", "read_splits"]


def read_dataset(root: str | Path, split: Split) -> CarDataset:
    """Read one split.

    `val` is a tenth of the official training photos, the same tenth on every machine and in every
    layout (see `validation_paths`), unless a table says otherwise; `train` is the rest; `test` is
    the official test split.

    Raises:
        DatasetError: nothing readable is there.
    """
    return read_splits(root, "test" if split == "test" else "train")[split]


def read_splits(root: str | Path, official: Literal["train", "test"]) -> dict[Split, CarDataset]:
    """Read `test`, or `train` and `val` at once, which are one list on disk.

    Raises:
        DatasetError: nothing readable is there.
    """
    root = Path(root)
    table = root / "cars.csv"
    if table.is_file():
        splits = read_csv_table(table)
        if official not in splits:
            raise DatasetError(
                f"{table} has no rows of split {official!r}: mark photos in a column 'split'"
            )
        if official == "test" or "val" in splits:
            return splits
        return hold_out(splits["train"])
    base = root / "stanford_cars" if (root / "stanford_cars").is_dir() else root
    if annotation_file(base, official).is_file():
        dataset = read_devkit(base, official)
    elif (base / official).is_dir():
        dataset = read_class_folders(base / official)
    else:
        raise DatasetError(
            f"no {official} photos of cars under {root}: neither the table {table} nor "
            f"{annotation_file(base, official)} (devkit layout) nor the folder {base / official} "
            f"(class folders) exists. {WHERE_TO_GET_IT}"
        )
    return {"test": dataset} if official == "test" else hold_out(dataset)
