"""The Lightning data module: photos decoded once, kept in memory as 8-bit pixels."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info
from torch.utils.data import DataLoader, Dataset

from handler.preprocessing import Preprocessing
from lightning_train.data.batch import Batch
from lightning_train.data.stanford_cars import (
    CarDataset,
    DatasetError,
    Split,
    load_crop,
    read_dataset,
)

__all__ = ["CarDataModule", "PixelDataset"]


class PixelDataset(Dataset[Batch]):
    """A whole split in memory: 150 kB a photo at 224 px, 1.2 GB for Stanford Cars.

    Decoding eight thousand photos once costs seconds; decoding them in every epoch would cost
    more than the forward pass of a small network.
    """

    def __init__(self, dataset: CarDataset, preprocessing: Preprocessing) -> None:
        size = preprocessing.size
        self.images = torch.empty((len(dataset.samples), 3, size, size), dtype=torch.uint8)
        self.labels = torch.tensor([s.class_id for s in dataset.samples], dtype=torch.int64)

        def decode(index: int) -> None:
            pixels = preprocessing(load_crop(dataset.samples[index], size))
            self.images[index] = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)

        with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes outside the GIL
            list(pool.map(decode, range(len(dataset.samples))))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Batch:
        return {"image": self.images[index], "label": self.labels[index]}

    def __getitems__(self, indices: list[int]) -> Batch:
        """A whole batch by one indexing operation: what the DataLoader asks for."""
        return {"image": self.images[indices], "label": self.labels[indices]}


class CarDataModule(pl.LightningDataModule):
    """Stanford Cars or your own cars, see `lightning_train.data.stanford_cars` for the layouts.

    Args:
        root: folder of the data set.
        size: side in pixels that photos are squashed to; augmentations may train on fewer.
        mean: per-channel mean of the network's input, for pixels scaled to 0…1.
        std: per-channel standard deviation, likewise.
        batch_size: photos a step.
    """

    def __init__(
        self,
        root: str,
        size: int = 224,
        mean: tuple[float, float, float] = (0.485, 0.456, 0.406),
        std: tuple[float, float, float] = (0.229, 0.224, 0.225),
        batch_size: int = 64,
    ) -> None:
        super().__init__()
        self.root = Path(root)
        self.batch_size = batch_size
        self.preprocessing = Preprocessing(size, mean, std)
        self._datasets: dict[Split, PixelDataset] = {}

    @property
    def class_names(self) -> list[str]:
        """The classes in order: the training split's, or the test split's if there is no other."""
        try:
            dataset = read_dataset(self.root, "train")
        except DatasetError as error:
            try:
                dataset = read_dataset(self.root, "test")
            except DatasetError:
                raise error from None
        return [label.label for label in dataset.labels]

    def setup(self, stage: str) -> None:
        """Decode the splits that `stage` needs.

        Raises:
            DatasetError: a split is missing, broken or empty, or has classes of its own.
        """
        splits: dict[str, tuple[Split, ...]] = {
            "fit": ("train", "val"),
            "validate": ("val",),
            "test": ("test",),
        }
        for split in splits.get(stage, ()):
            if split not in self._datasets:
                dataset = self._read(split)
                rank_zero_info(f"decoding {len(dataset.samples)} {split} photos from {self.root}")
                self._datasets[split] = PixelDataset(dataset, self.preprocessing)

    def _read(self, split: Split) -> CarDataset:
        """One split, its class ids those of `class_names` even if it lacks some classes."""
        dataset = read_dataset(self.root, split)
        if not dataset.samples:
            raise DatasetError(f"no {split} photos in {self.root}: every class needs two or more")
        ids = {name: class_id for class_id, name in enumerate(self.class_names)}
        names = [label.label for label in dataset.labels]
        unknown = sorted(set(names) - set(ids))
        if unknown:
            raise DatasetError(f"the {split} split has a class that training lacks: {unknown[0]!r}")
        samples = tuple(replace(s, class_id=ids[names[s.class_id]]) for s in dataset.samples)
        return CarDataset(dataset.labels, samples)

    def _loader(self, split: Split) -> DataLoader[Batch]:
        dataset = self._datasets[split]
        train = split == "train"
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            shuffle=train,
            # The batch statistics of a few left-over photos would be noise.
            drop_last=train and len(dataset) >= self.batch_size,
            collate_fn=_already_a_batch,  # type: ignore[arg-type]  # a batch, not a list
        )

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled full batches; what is left over waits for another epoch's shuffle."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[Batch]:
        """Every validation photo once."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        """Every test photo once."""
        return self._loader("test")


def _already_a_batch(batch: Batch) -> Batch:
    """`PixelDataset.__getitems__` has collated it."""
    return batch
