"""A data set as a run uses it: read once, with the classes and photos that were asked for."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from handler.labels import CarLabel
from lightning_train.data.layouts import read_splits
from lightning_train.data.samples import CarDataset, DatasetError, Sample, Split
from lightning_train.data.subsets import choose_classes, choose_photos

__all__ = ["Selection"]


class Selection:
    """The splits of a data set, numbered alike and thinned out.

    Args:
        root: folder of the data set.
        max_classes: keep only so many classes.
        photos_per_class: train on no more of each class.
        long_tail: make training this unbalanced.
    """

    def __init__(
        self,
        root: Path,
        max_classes: int | None = None,
        photos_per_class: int | None = None,
        long_tail: float | None = None,
    ) -> None:
        self.root = root
        self.max_classes = max_classes
        self.photos_per_class = photos_per_class
        self.long_tail = long_tail
        self._read: dict[Split, CarDataset] = {}

    @cached_property
    def labels(self) -> tuple[CarLabel, ...]:
        """The chosen classes of training, or of the test split if there is no other, renumbered.

        Raises:
            DatasetError: there are no photos, or there is one class only.
        """
        chosen = choose_classes(self._on_disk(self._reference).labels, self.max_classes)
        if len(chosen) < 2:
            raise DatasetError(
                f"{self.root} has one class only, {chosen[0].label!r}: a classifier needs two or "
                "more; add photos of another car"
            )
        return tuple(replace(label, class_id=i) for i, label in enumerate(chosen))

    @cached_property
    def class_counts(self) -> list[int]:
        """Training photos of each class; 1 for every class where there is only a test split."""
        if self._reference == "test":
            return [1] * len(self.labels)
        counts = Counter(sample.class_id for sample in self.split("train").samples)
        return [counts[label.class_id] for label in self.labels]

    def split(self, split: Split) -> CarDataset:
        """One split with the class ids of `labels`, even if it lacks some of them.

        Raises:
            DatasetError: it is missing, broken or empty, or has classes of its own.
        """
        dataset = self._on_disk(split)
        known = {label.label for label in self._on_disk(self._reference).labels}
        unknown = sorted({label.label for label in dataset.labels} - known)
        if unknown:
            raise DatasetError(f"the {split} split has a class that training lacks: {unknown[0]!r}")
        ids = {label.label: label.class_id for label in self.labels}
        samples: tuple[Sample, ...] = tuple(
            replace(sample, class_id=ids[name])
            for sample in dataset.samples
            if (name := dataset.labels[sample.class_id].label) in ids
        )
        if split == "train":
            samples = choose_photos(samples, len(ids), self.photos_per_class, self.long_tail)
        if not samples:
            raise DatasetError(f"no {split} photos in {self.root}: every class needs two or more")
        return CarDataset(self.labels, samples)

    @cached_property
    def _reference(self) -> Literal["train", "test"]:
        """The split whose classes count."""
        try:
            self._on_disk("train")
        except DatasetError as error:
            try:
                self._on_disk("test")
            except DatasetError:
                raise error from None
            return "test"
        return "train"

    def _on_disk(self, split: Split) -> CarDataset:
        if split not in self._read:
            self._read |= read_splits(self.root, "test" if split == "test" else "train")
        return self._read[split]
