"""From photos on disk to batches on the device."""

from lightning_train.data.batch import Batch
from lightning_train.data.crops import load_crop
from lightning_train.data.datamodule import CarDataModule
from lightning_train.data.layouts import read_dataset
from lightning_train.data.samples import (
    IMAGE_SUFFIXES,
    CarDataset,
    DatasetError,
    Sample,
    Split,
)
from lightning_train.data.splits import validation_paths
from lightning_train.data.unreadable import IfUnreadable

__all__ = [
    "IMAGE_SUFFIXES",
    "Batch",
    "CarDataModule",
    "CarDataset",
    "DatasetError",
    "IfUnreadable",
    "Sample",
    "Split",
    "load_crop",
    "read_dataset",
    "validation_paths",
]
