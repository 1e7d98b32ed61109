"""The photos of a data set's folder that an archive is built of, or a model is measured on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from handler.cores import usable_cores
from lightning_train.data import (
    IMAGE_SUFFIXES,
    CarDataset,
    DatasetError,
    IfUnreadable,
    Sample,
    Split,
    read_dataset,
)
from lightning_train.data.splits import name_hash
from lightning_train.data.unreadable import find_unreadable, tell_unreadable

__all__ = ["PhotoSets"]


class PhotoSets:
    """A data set's splits, and beside them the folders of photos that show none of its cars.

    Args:
        data: its folder, see `lightning_train.data`.
        size: of the network's input.
        unreadable: `skip` decodes all photos that are asked for, names those that can't be and
            leaves them out; with `error` whoever reads such a photo raises a `DatasetError`.
    """

    def __init__(self, data: Path, size: int, unreadable: IfUnreadable = "error") -> None:
        self.data = data
        self._size = size
        self._skips = unreadable == "skip"
        self._is_readable: dict[Path, bool] = {}

    def split(self, split: Split) -> CarDataset:
        """Labelled photos.

        Raises:
            DatasetError: there is no such split, or nothing usable in it.
        """
        return self.usable(read_dataset(self.data, split), split)

    def usable(self, dataset: CarDataset, split: Split) -> CarDataset:
        """What can be used of a split that has been read.

        Raises:
            DatasetError: nothing.
        """
        samples = self._readable(dataset.samples, f"{split} split")
        if not samples:
            raise DatasetError(f"{self.data} has 0 usable {split} photos")
        return replace(dataset, samples=samples)

    def others(
        self,
        name: Literal["not_cars", "unseen_cars"],
        part: Literal["fit", "measure"] | None = None,
    ) -> list[Path]:
        """Photos of a folder that are none of the model's cars; none if there is no such folder.

        Args:
            name: of the folder, which is searched through all levels.
            part: about half of them, by their names alone, so that a photo that is added or removed
                moves no other (but among a handful): `fit` for the detector, `measure` for its
                score.
        """
        folder = self.data / name
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        if part:
            # Of a handful, one at least has to be fitted to.
            to_fit = {it for it in paths if _is_to_fit(it.relative_to(folder))} or set(paths[:1])
            paths = [it for it in paths if (it in to_fit) == (part == "fit")]
        return [it.path for it in self._readable([Sample(it, 0) for it in paths], name)]

    def outside(self) -> dict[str, list[Path]]:
        """Folder name → photos to measure on, for those folders that the data set has.

        Of `not_cars` only the half that no detector is fitted on: archives and checkpoints are
        then measured on the same photos.
        """
        photos = {
            "not_cars": self.others("not_cars", "measure"),
            "unseen_cars": self.others("unseen_cars"),
        }
        return {name: paths for name, paths in photos.items() if paths}

    def _readable(self, samples: Sequence[Sample], what: str) -> tuple[Sample, ...]:
        if not self._skips:
            return tuple(samples)
        new = [sample for sample in samples if sample.path not in self._is_readable]
        unreadable = find_unreadable(new, self._size, usable_cores())
        self._is_readable |= {sample.path: sample.path not in unreadable for sample in new}
        if unreadable:
            print(f"{what}: {tell_unreadable(unreadable, len(new))}. Left out", flush=True)
        return tuple(sample for sample in samples if self._is_readable[sample.path])


def _is_to_fit(name: Path) -> bool:
    return name_hash(name.as_posix())[0] % 2 == 1
