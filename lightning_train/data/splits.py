"""Which photos train and which are held out: by their names alone, the same on every machine."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from lightning_train.data.samples import CarDataset, Sample, Split

__all__ = ["by_class", "hold_out", "ranked", "validation_paths", "with_keys"]


def validation_paths(samples: Iterable[Sample], fraction: float = 0.1) -> set[Path]:
    """The photos of the validation split: a stratified tenth that depends on their names alone.

    Within each class the photos are ordered as `ranked` does and the first tenth (rounded, at least
    one where a class has two photos or more) is held out. The reading order, the folder layout and
    photos added to another class do not change it, as long as no two photos have the same file
    name; those that have are told apart by class and folders, see `with_keys`. (Photos added to the
    same class do change it: a model trained before has then seen some of the new validation
    photos.)
    """
    held_out: set[Path] = set()
    for group in by_class(samples).values():
        count = max(int(len(group) * fraction + 0.5), 1) if len(group) > 1 else 0
        held_out.update(sample.path for sample in ranked(group)[:count])
    return held_out


def with_keys(dataset: CarDataset, root: Path) -> CarDataset:
    """Give all training photos the key that `ranked` orders them by.

    It is the file name where no other photo has the same, or else the class name and the path from
    `root`: photos that are called front.jpg in every class folder, or 1.jpg in every listing's,
    would otherwise be held out all together, or not at all.

    Args:
        dataset: the training photos, with those that are yet to be held out.
        root: the folder of the data set; where it lies is no part of the key.
    """
    names = Counter(_composed(sample.path.name) for sample in dataset.samples)

    def key(sample: Sample) -> str:
        name = _composed(sample.path.name)
        if names[name] == 1:
            return name
        path = Path(os.path.relpath(sample.path, root)).as_posix()
        return _composed(f"{dataset.labels[sample.class_id].label}/{path}")

    return replace(dataset, samples=tuple(replace(s, key=key(s)) for s in dataset.samples))


def hold_out(dataset: CarDataset) -> dict[Split, CarDataset]:
    """Split the official training photos into `train` and `val`."""
    held_out = validation_paths(dataset.samples)
    return {
        "train": CarDataset(
            dataset.labels, tuple(s for s in dataset.samples if s.path not in held_out)
        ),
        "val": CarDataset(dataset.labels, tuple(s for s in dataset.samples if s.path in held_out)),
    }


def by_class(samples: Iterable[Sample]) -> dict[int, list[Sample]]:
    """Class id → its photos, in the given order."""
    groups: dict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.class_id].append(sample)
    return groups


def ranked(samples: Iterable[Sample]) -> list[Sample]:
    """The photos as if shuffled: by the SHA-256 of their keys, see `with_keys`.

    Two with the same key (file names without keys, or names that only differ in how their accents
    are written) are in the order of their paths.
    """
    return sorted(samples, key=lambda s: (name_hash(s.key or s.path.name), s.path.as_posix()))


def name_hash(name: str) -> bytes:
    """SHA-256 of a name, the same on file systems that decompose accents (macOS) and others."""
    return hashlib.sha256(os.fsencode(_composed(name))).digest()


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)
