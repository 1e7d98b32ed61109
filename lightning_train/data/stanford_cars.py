"""Find the photos of Stanford Cars, or of your own cars, on disk.

Two layouts are read, from ROOT or ROOT/stanford_cars:

- devkit: `devkit/cars_train_annos.mat` + `cars_train/`, `cars_test_annos_withlabels.mat` +
  `cars_test/`, class names in `devkit/cars_meta.mat`: as torchvision reads it;
- class folders: `train/<class name>/*.jpg`, `test/<class name>/*.jpg`: one folder per class named
  "MAKE MODEL [BODY] YEAR" (a "/" in a name is written "-"). Your own cars go here.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import scipy.io
from PIL import Image

from handler.decode import decode_photo
from handler.errors import PhotoError
from handler.labels import CarLabel, labels_from_names, stanford_cars_labels

__all__ = [
    "IMAGE_SUFFIXES",
    "CarDataset",
    "DatasetError",
    "Sample",
    "Split",
    "load_crop",
    "read_dataset",
    "validation_paths",
]

Split = Literal["train", "val", "test"]

_CROP_MARGIN = 16  # pixels around the annotated box
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".heic", ".heif"}
_WHERE_TO_GET_IT = (
    "Copies of the data set are on Kaggle and on the Hugging Face Hub (its original address has "
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
        box: the car as (left, top, right, bottom) in pixels, or None where nobody drew one.
    """

    path: Path
    class_id: int
    box: tuple[int, int, int, int] | None = None


@dataclass(frozen=True, slots=True)
class CarDataset:
    """One split of a data set, with the label table of its classes."""

    labels: tuple[CarLabel, ...]
    samples: tuple[Sample, ...]


def read_dataset(root: str | Path, split: Split) -> CarDataset:
    """Read one split.

    `val` is a tenth of the official training photos, the same tenth on every machine and in every
    layout (see `validation_paths`); `train` is the rest; `test` is the official test split.

    Raises:
        DatasetError: nothing readable is there.
    """
    root = Path(root)
    base = root / "stanford_cars" if (root / "stanford_cars").is_dir() else root
    official: Literal["train", "test"] = "test" if split == "test" else "train"
    annotations = _annotation_file(base, official)
    if annotations.is_file():
        dataset = _read_devkit(base, annotations, official)
    elif (base / official).is_dir():
        dataset = _read_class_folders(base / official)
    else:
        raise DatasetError(
            f"no Stanford Cars {official} photos under {root}: neither {annotations} (devkit "
            f"layout) nor the folder {base / official} (class folders) exists. {_WHERE_TO_GET_IT}"
        )
    if split == "test":
        return dataset
    held_out = validation_paths(dataset.samples)
    wanted = split == "val"
    samples = tuple(s for s in dataset.samples if (s.path in held_out) == wanted)
    return CarDataset(dataset.labels, samples)


def validation_paths(samples: Iterable[Sample], fraction: float = 0.1) -> set[Path]:
    """The photos of the validation split: a stratified tenth that depends on file names alone.

    Within each class the photos are ordered by the SHA-256 of their file name and the first tenth
    (rounded, at least one where a class has two photos or more) is held out: neither the reading
    order, nor the folder layout, nor photos added to another class change it. (Photos added to the
    same class do: a model trained before has then seen some of the new validation photos.)
    """
    classes: dict[int, list[Path]] = defaultdict(list)
    for sample in samples:
        classes[sample.class_id].append(sample.path)
    held_out: set[Path] = set()
    for paths in classes.values():
        count = max(int(len(paths) * fraction + 0.5), 1) if len(paths) > 1 else 0
        ranked = sorted(paths, key=lambda p: hashlib.sha256(p.name.encode()).digest())
        held_out.update(ranked[:count])
    return held_out


def load_crop(sample: Sample, size: int) -> Image.Image:
    """Decode a photo and cut the car out: its box plus 16 px on each side, where there is image.

    Without a box, or with one around the whole image (the published 224 px crops), the photo is
    decoded by the worker's own code, so that training sees what the worker will see.

    Args:
        sample: the photo.
        size: of the network's input; a photo is decoded at no less than twice this if it can be.

    Returns:
        RGB image in its own size and aspect ratio.

    Raises:
        DatasetError: the file cannot be decoded.
    """
    try:
        data = sample.path.read_bytes()
        if sample.box is None:
            return decode_photo(data, min_side=size).image
        with Image.open(io.BytesIO(data)) as image:
            if sample.box == (0, 0, *image.size):
                return decode_photo(data, min_side=size).image
            left, top, right, bottom = sample.box
            return image.convert("RGB").crop(
                (
                    max(left - _CROP_MARGIN, 0),
                    max(top - _CROP_MARGIN, 0),
                    min(right + _CROP_MARGIN, image.width),
                    min(bottom + _CROP_MARGIN, image.height),
                )
            )
    except (OSError, PhotoError, Image.DecompressionBombError) as error:
        raise DatasetError(
            f"{sample.path} cannot be read as an image ({error}). Replace or delete it"
        ) from error


def _annotation_file(base: Path, split: Literal["train", "test"]) -> Path:
    if split == "train":
        return base / "devkit" / "cars_train_annos.mat"
    inside = base / "devkit" / "cars_test_annos_withlabels.mat"
    return inside if inside.is_file() else base / "cars_test_annos_withlabels.mat"


def _read_devkit(base: Path, annotations: Path, split: Literal["train", "test"]) -> CarDataset:
    folder = base / f"cars_{split}"
    if not folder.is_dir():
        raise DatasetError(f"{annotations} is there, but not the photos in {folder}")
    meta = base / "devkit" / "cars_meta.mat"
    labels = (
        labels_from_names(str(name) for name in _load_mat(meta, "class_names"))
        if meta.is_file()
        else stanford_cars_labels()
    )
    samples = []
    for row in _load_mat(annotations, "annotations"):
        path = folder / str(row["fname"])
        box = tuple(int(row[key]) for key in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2"))
        # The annotations count classes and pixels from 1.
        left, top, right, bottom = box
        samples.append(Sample(path, int(row["class"]) - 1, (left - 1, top - 1, right, bottom)))
    missing = [sample.path for sample in samples if not sample.path.is_file()]
    if missing:
        raise DatasetError(
            f"{annotations} names {len(samples)} photos, {len(missing)} are missing, the first: "
            f"{missing[0]}. Unpack cars_{split} completely. {_WHERE_TO_GET_IT}"
        )
    return CarDataset(labels, tuple(samples))


def _load_mat(path: Path, key: str) -> Sequence[Any]:
    try:
        content = scipy.io.loadmat(str(path), squeeze_me=True)[key]
    except (ValueError, KeyError, IndexError, OSError, TypeError) as error:
        raise DatasetError(
            f"{path} is not the devkit's file ({error}): get it again. {_WHERE_TO_GET_IT}"
        ) from error
    return list(np.atleast_1d(content))


def _read_class_folders(folder: Path) -> CarDataset:
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    official = {_plain(label.label): label for label in stanford_cars_labels()}
    # Official classes are spelt the official way again, and numbered so if they are all there.
    spelt = {
        name: official[_plain(name)].label if _plain(name) in official else name for name in names
    }
    if len(names) == len(official) and {_plain(name) for name in names} == set(official):
        labels = stanford_cars_labels()
    else:
        try:
            labels = labels_from_names(spelt[name] for name in names)
        except ValueError as error:
            raise DatasetError(f"{folder}: {error}") from error
    class_ids = {label.label: label.class_id for label in labels}
    samples = tuple(
        Sample(path, class_ids[spelt[name]])
        for name in names
        for path in sorted((folder / name).iterdir())
        if path.suffix.lower() in IMAGE_SUFFIXES
    )
    if not samples:
        raise DatasetError(
            f"{folder} holds no photos in class folders such as "
            f"'{folder / 'Audi TTS Coupe 2012'}/1.jpg'. {_WHERE_TO_GET_IT}"
        )
    return CarDataset(labels, samples)


def _plain(class_name: str) -> str:
    """A class name without the signs that file systems and archives change ("/", "_", case)."""
    return " ".join(re.split(r"[\s/_-]+", class_name)).casefold()
