"""The devkit layout of Stanford Cars, as torchvision reads it.

`devkit/cars_train_annos.mat` + `cars_train/`, `cars_test_annos_withlabels.mat` + `cars_test/`,
class names in `devkit/cars_meta.mat`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import scipy.io

from handler.labels import labels_from_names, stanford_cars_labels
from lightning_train.data.samples import WHERE_TO_GET_IT, CarDataset, DatasetError, Sample

__all__ = ["annotation_file", "read_devkit"]


def annotation_file(base: Path, split: Literal["train", "test"]) -> Path:
    """Where the annotations of an official split are, or would be."""
    if split == "train":
        return base / "devkit" / "cars_train_annos.mat"
    inside = base / "devkit" / "cars_test_annos_withlabels.mat"
    return inside if inside.is_file() else base / "cars_test_annos_withlabels.mat"


def read_devkit(base: Path, split: Literal["train", "test"]) -> CarDataset:
    """Read an official split, its boxes included.

    Raises:
        DatasetError: a file is damaged, or photos or class names are missing.
    """
    annotations = annotation_file(base, split)
    folder = base / f"cars_{split}"
    if not folder.is_dir():
        raise DatasetError(f"{annotations} is there, but not the photos in {folder}")
    meta = base / "devkit" / "cars_meta.mat"
    try:
        labels = (
            labels_from_names(str(name) for name in _load_mat(meta, "class_names"))
            if meta.is_file()
            else stanford_cars_labels()
        )
    except ValueError as error:
        raise DatasetError(f"{meta}: {error}") from error
    samples = []
    for row in _load_mat(annotations, "annotations"):
        path = folder / str(row["fname"])
        box = tuple(int(row[key]) for key in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2"))
        # The annotations count classes and pixels from 1, and the last pixel belongs to the box.
        left, top, right, bottom = box
        samples.append(Sample(path, int(row["class"]) - 1, (left - 1, top - 1, right, bottom)))
    unnamed = {sample.class_id + 1 for sample in samples} - set(range(1, len(labels) + 1))
    if unnamed:
        raise DatasetError(
            f"{annotations} has photos of class {max(unnamed)}, but only {len(labels)} classes "
            f"have names in {meta}: take both files from the same copy. {WHERE_TO_GET_IT}"
        )
    missing = [sample.path for sample in samples if not sample.path.is_file()]
    if missing:
        raise DatasetError(
            f"{annotations} names {len(samples)} photos, {len(missing)} are missing, the first: "
            f"{missing[0]}. Unpack cars_{split} completely. {WHERE_TO_GET_IT}"
        )
    return CarDataset(labels, tuple(samples))


def _load_mat(path: Path, key: str) -> Sequence[Any]:
    try:
        content = scipy.io.loadmat(str(path), squeeze_me=True)[key]
    except (ValueError, KeyError, IndexError, OSError, TypeError) as error:
        raise DatasetError(
            f"{path} is not the devkit's file ({error}): get it again. {WHERE_TO_GET_IT}"
        ) from error
    return list(np.atleast_1d(content))
