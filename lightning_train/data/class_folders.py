"""The class-folder layout: `train/<class name>/*.jpg`, `test/<class name>/*.jpg`.

A folder is named "MAKE MODEL [BODY] YEAR"; a "/" in a name is written "-".
"""

from __future__ import annotations

import re
from pathlib import Path

from handler.labels import labels_from_names, stanford_cars_labels
from lightning_train.data.samples import (
    IMAGE_SUFFIXES,
    WHERE_TO_GET_IT,
    CarDataset,
    DatasetError,
    Sample,
)

__all__ = ["read_class_folders"]


def read_class_folders(folder: Path) -> CarDataset:
    """Read the class folders of one official split.

    Raises:
        DatasetError: a folder's name is no class name, or there are no photos.
    """
    official = {_plain(label.label): label.label for label in stanford_cars_labels()}
    # Official classes are spelt the official way again, and numbered so if they are all there.
    folders: dict[str, Path] = {}
    for entry in sorted(entry for entry in folder.iterdir() if entry.is_dir()):
        name = official.get(_plain(entry.name), " ".join(entry.name.split()))
        if name in folders:
            raise DatasetError(f"{folders[name]} and {entry} are the same class: make them one")
        folders[name] = entry
    try:
        labels = (
            stanford_cars_labels()
            if set(folders) == set(official.values())
            else labels_from_names(sorted(folders))
        )
    except ValueError as error:
        raise DatasetError(f"{folder}: {error}") from error
    samples = tuple(
        Sample(path, label.class_id)
        for label in labels
        for path in sorted(folders[label.label].iterdir())
        if path.suffix.lower() in IMAGE_SUFFIXES
    )
    if not samples:
        raise DatasetError(
            f"{folder} holds no photos in class folders such as "
            f"'{folder / 'Audi TTS Coupe 2012'}/1.jpg'. {WHERE_TO_GET_IT}"
        )
    return CarDataset(labels, samples)


def _plain(class_name: str) -> str:
    """A class name without the signs that file systems and archives change ("/", "_", case)."""
    return " ".join(re.split(r"[\s/_-]+", class_name)).casefold()
