"""What the readers of all layouts produce: labelled photos."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from handler.labels import CarLabel

__all__ = ["IMAGE_SUFFIXES", "WHERE_TO_GET_IT", "CarDataset", "DatasetError", "Sample", "Split"]

Split = Literal["train", "val", "test"]

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".heic", ".heif"}
WHERE_TO_GET_IT = (
    "Copies of Stanford Cars are on Kaggle and on the Hugging Face Hub (its original address has "
    "been dead since 2023); README.md, 'Train on your own cars', shows the folders that are read."
)


class DatasetError(Exception):
    """The data set is not where, or not what, it should be; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled photo.

    Attributes:
        path: the image file.
        class_id: 0-based class.
        box: the car as (left, top, right, bottom) in pixels from 0, right and bottom exclusive, or
            None where nobody drew one.
        key: what its place among the photos of its class hangs on, see `splits.with_keys`; empty:
            its file name.
    """

    path: Path
    class_id: int
    box: tuple[int, int, int, int] | None = None
    key: str = ""


@dataclass(frozen=True, slots=True)
class CarDataset:
    """One split of a data set, with the label table of its classes."""

    labels: tuple[CarLabel, ...]
    samples: tuple[Sample, ...]
