"""Photos that show none of the model's cars: how well a model says so is measured on them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from lightning_train.data import IMAGE_SUFFIXES

__all__ = ["other_photos", "outside_photos"]


def other_photos(folder: Path, part: Literal["fit", "measure"] | None = None) -> list[Path]:
    """Photos of a folder that are none of the model's cars; none if there is no such folder.

    Args:
        folder: searched through all levels.
        part: by file name every second photo: `fit` for the detector, `measure` for its score.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    return {"fit": paths[::2], "measure": paths[1::2], None: paths}[part]


def outside_photos(data: Path) -> dict[str, list[Path]]:
    """Folder name → photos to measure on, for those folders that the data set has.

    Of `not_cars` only the half that no detector is fitted on: archives and checkpoints are then
    measured on the same photos.
    """
    photos = {
        "not_cars": other_photos(data / "not_cars", "measure"),
        "unseen_cars": other_photos(data / "unseen_cars"),
    }
    return {name: paths for name, paths in photos.items() if paths}
