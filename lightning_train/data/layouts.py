"""Find the photos of Stanford Cars, or of your own cars, on disk.

Three layouts are read:

- table: `ROOT/cars.csv`, see `lightning_train.data.csv_table`. For your own cars: make, model, body
  and year are what you write;
- devkit: Stanford Cars as torchvision reads it, see `lightning_train.data.devkit`;
- class folders: `train/<class name>/*.jpg`, `test/<class name>/*.jpg` and, if you like,
  `val/<class name>/*.jpg`, one folder per class named "MAKE MODEL [BODY] YEAR", see
  `lightning_train.data.class_folders`.

Devkit and class folders are looked for in ROOT and in ROOT/stanford_cars.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from lightning_train.data.class_folders import read_class_folders
from lightning_train.data.csv_table import read_csv_table
from lightning_train.data.devkit import annotation_file, read_devkit
from lightning_train.data.samples import WHERE_TO_GET_IT, CarDataset, DatasetError, Split
from lightning_train.data.splits import hold_out, with_keys

__all__ = ["read_dataset", "read_splits"]

_MEANT_AS_VAL = {"val", "valid", "validation"}


def read_dataset(root: str | Path, split: Split) -> CarDataset:
    """Read one split.

    `val` is a tenth of the official training photos, the same tenth on every machine and in every
    layout (see `validation_paths`), unless a table or a folder `val` says otherwise; `train` is the
    rest; `test` is the official test split.

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
        if official == "test":
            return {"test": splits["test"]}
        train = with_keys(splits["train"], root)
        return {"train": train, "val": splits["val"]} if "val" in splits else hold_out(train)
    base = root / "stanford_cars" if (root / "stanford_cars").is_dir() else root
    if annotation_file(base, official).is_file():
        dataset = read_devkit(base, official)
        return {"test": dataset} if official == "test" else hold_out(with_keys(dataset, base))
    if (base / official).is_dir():
        if official == "test":
            return {"test": read_class_folders(base / "test")}
        return _train_and_val_folders(base)
    raise DatasetError(
        f"no {official} photos of cars under {root}: neither the table {table} nor "
        f"{annotation_file(base, official)} (devkit layout) nor the folder {base / official} "
        f"(class folders) exists. {WHERE_TO_GET_IT}"
    )


def _train_and_val_folders(base: Path) -> dict[Split, CarDataset]:
    train = with_keys(read_class_folders(base / "train", all_have_photos=True), base)
    if (base / "val").is_dir():
        # A class may lack photos there, but there is none that training has not.
        return {"train": train, "val": read_class_folders(base / "val", train.labels)}
    for entry in sorted(base.iterdir()):
        if entry.name.casefold() in _MEANT_AS_VAL and entry.is_dir():
            raise DatasetError(
                f"{entry} is not read: rename it to 'val' if its photos are to be validated on, "
                "or to something else if a tenth of train is to be held out"
            )
    return hold_out(train)
