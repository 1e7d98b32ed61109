"""Which photos train and which are held out: by file names alone, the same on every machine."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from lightning_train.data.samples import CarDataset, Sample, Split

__all__ = ["by_class", "hold_out", "ranked", "validation_paths"]


def validation_paths(samples: Iterable[Sample], fraction: float = 0.1) -> set[Path]:
    """The photos of the validation split: a stratified tenth that depends on file names alone.

    Within each class the photos are ordered by the SHA-256 of their file name and the first tenth
    (rounded, at least one where a class has two photos or more) is held out: neither the reading
    order, nor the folder layout, nor photos added to another class change it. (Photos added to the
    same class do: a model trained before has then seen some of the new validation photos.)
    """
    held_out: set[Path] = set()
    for group in by_class(samples).values():
        count = max(int(len(group) * fraction + 0.5), 1) if len(group) > 1 else 0
        held_out.update(sample.path for sample in ranked(group)[:count])
    return held_out


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
    """The photos as if shuffled, in an order that depends on file names alone."""
    return sorted(samples, key=lambda sample: name_hash(sample.path.name))


def name_hash(name: str) -> bytes:
    """SHA-256 of a name, the same on file systems that decompose accents (macOS) and others."""
    return hashlib.sha256(os.fsencode(unicodedata.normalize("NFC", name))).digest()
