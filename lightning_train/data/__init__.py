"""From photos on disk to batches on the device."""

from lightning_train.data.batch import Batch
from lightning_train.data.datamodule import CarDataModule
from lightning_train.data.stanford_cars import (
    IMAGE_SUFFIXES,
    CarDataset,
    DatasetError,
    Sample,
    Split,
    load_crop,
    read_dataset,
    validation_paths,
)

__all__ = [
    "IMAGE_SUFFIXES",
    "Batch",
    "CarDataModule",
    "CarDataset",
    "DatasetError",
    "Sample",
    "Split",
    "load_crop",
    "read_dataset",
    "validation_paths",
]
