"""The class-folder layout: `train/<class name>/*.jpg`, and so `test/`, and `val/` if you like.

A folder is named "MAKE MODEL [BODY] YEAR"; a "/" in a name is written "-". Hidden files and folders
are not looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytorch_lightning.utilities import rank_zero_warn

from handler.labels import CarLabel, labels_from_names, stanford_cars_labels
from lightning_train.data.class_names import plain, spelled
from lightning_train.data.samples import (
    IMAGE_SUFFIXES,
    WHERE_TO_GET_IT,
    CarDataset,
    DatasetError,
    Sample,
)

__all__ = ["read_class_folders"]

_SUFFIXES = ", ".join(sorted(IMAGE_SUFFIXES))
_LEFT_BY_WINDOWS = {"thumbs.db", "desktop.ini"}  # hidden there, but not by their names


@dataclass(frozen=True, slots=True)
class _ClassFolder:
    path: Path
    photos: tuple[Path, ...]
    others: tuple[Path, ...]  # whatever else is to be seen in it

    @classmethod
    def read(cls, path: Path) -> _ClassFolder:
        entries = _visible(path)
        is_photo = [entry.suffix.lower() in IMAGE_SUFFIXES for entry in entries]
        return cls(
            path,
            tuple(entry for entry, it_is in zip(entries, is_photo, strict=True) if it_is),
            tuple(entry for entry, it_is in zip(entries, is_photo, strict=True) if not it_is),
        )


def read_class_folders(
    folder: Path, labels: Sequence[CarLabel] | None = None, *, all_have_photos: bool = False
) -> CarDataset:
    """Read the class folders of one official split, and warn of files in them that are no photos.

    Args:
        folder: that holds the class folders.
        labels: the classes that there are; None: those that have a folder, sorted by name (or in
            the official order, if they are exactly those of Stanford Cars).
        all_have_photos: whether a class folder without photos is an error.

    Raises:
        DatasetError: a folder's name is no class name, or none of `labels`; two are the same class;
            there are no photos.
    """
    folders = _by_class(folder)
    if labels is None:
        labels = _labels_of(folder, folders)
    else:
        _check_known(folders, labels)
    if all_have_photos:
        _check_photos(folder, folders.values())
    samples = tuple(
        Sample(path, label.class_id)
        for label in labels
        if (class_folder := folders.get(plain(label.label)))
        for path in class_folder.photos
    )
    _warn_of_others(folder, folders.values())
    if not samples:
        raise DatasetError(
            f"{folder} holds no photos ({_SUFFIXES}) in class folders such as "
            f"'{folder / 'Audi TTS Coupe 2012'}/1.jpg'. {WHERE_TO_GET_IT}"
        )
    return CarDataset(tuple(labels), samples)


def _by_class(folder: Path) -> dict[str, _ClassFolder]:
    """Class name without its signs, see `plain` → its folder."""
    folders: dict[str, _ClassFolder] = {}
    for entry in _visible(folder):
        if not entry.is_dir():
            continue
        name = plain(entry.name)
        if name in folders:
            raise DatasetError(
                f"{folders[name].path} and {entry} are the same class: make them one"
            )
        folders[name] = _ClassFolder.read(entry)
    return folders


def _labels_of(folder: Path, folders: dict[str, _ClassFolder]) -> tuple[CarLabel, ...]:
    # Official classes are spelt the official way again, and numbered so if they are all there.
    official = {plain(label.label): label for label in stanford_cars_labels()}
    if set(folders) == set(official):
        return tuple(official.values())
    names = (
        official[name].label if name in official else spelled(found.path.name)
        for name, found in folders.items()
    )
    try:
        return labels_from_names(sorted(names))
    except ValueError as error:
        raise DatasetError(f"{folder}: {error}") from error


def _check_known(folders: dict[str, _ClassFolder], labels: Sequence[CarLabel]) -> None:
    unknown = sorted(set(folders) - {plain(label.label) for label in labels})
    if unknown:
        raise DatasetError(
            f"{folders[unknown[0]].path} is a class that training lacks: rename it as its folder "
            "in train is, add such a folder there, or delete it"
        )


def _check_photos(folder: Path, folders: Iterable[_ClassFolder]) -> None:
    empty = [found for found in folders if not found.photos]
    if empty:
        others = f" but {_count(empty[0].others)}" if empty[0].others else ""
        more = f" ({len(empty)} class folders in {folder} are so)" if len(empty) > 1 else ""
        raise DatasetError(
            f"{empty[0].path} holds no photos{others}{more}: put some in ({_SUFFIXES} are read), "
            "or delete the folder"
        )


def _warn_of_others(folder: Path, folders: Iterable[_ClassFolder]) -> None:
    """Say once what is left out: photos of a type that is not read are otherwise not missed."""
    others = [path for found in folders for path in found.others]
    if others:
        rank_zero_warn(
            f"Left out of the class folders in {folder}: {_count(others)}. Photos are files "
            f"({_SUFFIXES}) right in the folder of their class"
        )
    loose = [path for path in _visible(folder) if path.suffix.lower() in IMAGE_SUFFIXES]
    if loose:
        rank_zero_warn(
            f"Left out: photos in {folder} that are in no class folder, {len(loose)} in all, the "
            f"first is {loose[0].name}"
        )


def _count(paths: Sequence[Path]) -> str:
    """How many of each suffix, such as "12 .bmp, 1 folder"."""
    files = [path for path in paths if not path.is_dir()]
    kinds = Counter(path.suffix.lower() or "without a suffix" for path in files)
    folders = len(paths) - len(files)
    kinds.update({"folder" if folders == 1 else "folders": folders} if folders else {})
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())


def _visible(folder: Path) -> list[Path]:
    return sorted(
        entry
        for entry in folder.iterdir()
        if not entry.name.startswith(".") and entry.name.casefold() not in _LEFT_BY_WINDOWS
    )
