"""Where decoded photos live: on the training device, in host memory, or nowhere."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from handler.preprocessing import Preprocessing
from lightning_train.data.batch import Batch
from lightning_train.data.crops import load_crop
from lightning_train.data.samples import Sample
from lightning_train.data.unreadable import Unreadable, failures

__all__ = [
    "Photos",
    "ResidentPhotos",
    "Storage",
    "StreamedPhotos",
    "choose_storage",
    "decode_photos",
]

Storage = Literal["auto", "device", "memory", "stream"]

_CHUNK = 512  # photos decoded at a time on their way to the device: 77 MB at 224 px


class Photos(Dataset[Batch]):
    """The photos of a split, of which the DataLoader asks for a whole batch at once.

    Attributes:
        samples: the N photos in order.
    """

    samples: tuple[Sample, ...]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitems__(self, indices: list[int]) -> Batch:
        """The batch of these positions."""
        raise NotImplementedError


class ResidentPhotos(Photos):
    """Photos decoded once: 150 kB each at 224 px, 1.2 GB for Stanford Cars.

    Args:
        samples: the N photos.
        images: their pixels, [N, 3, S, S] uint8, on any device.
    """

    def __init__(self, samples: Sequence[Sample], images: Tensor) -> None:
        self.samples = tuple(samples)
        self.images = images
        self.labels = torch.tensor([sample.class_id for sample in samples], device=images.device)

    def __getitems__(self, indices: list[int]) -> Batch:
        index = torch.tensor(indices, dtype=torch.int64)
        if self.images.is_cuda:
            # Pinned, it gets there without waiting for the GPU, whose queue must not run empty.
            index = index.pin_memory()
        index = index.to(self.images.device, non_blocking=True)
        return {
            "image": self.images.index_select(0, index),
            "label": self.labels.index_select(0, index),
        }


class StreamedPhotos(Photos):
    """Photos decoded each time they are asked for, by the DataLoader's worker processes.

    Args:
        samples: the N photos.
        preprocessing: makes them squares of S pixels.
    """

    def __init__(self, samples: Sequence[Sample], preprocessing: Preprocessing) -> None:
        self.samples = tuple(samples)
        self.preprocessing = preprocessing

    def __getitems__(self, indices: list[int]) -> Batch:
        images = _empty(len(indices), self.preprocessing)
        for image, i in zip(images, indices, strict=True):
            _decode_into(image, self.samples[i], self.preprocessing)
        return {
            "image": images,
            "label": torch.tensor([self.samples[i].class_id for i in indices]),
        }


def decode_photos(
    samples: Sequence[Sample], preprocessing: Preprocessing, device: torch.device, threads: int
) -> tuple[ResidentPhotos, Unreadable]:
    """Decode a whole split: seconds once, which every epoch would cost again.

    Returns:
        Those photos that are readable, on the device; the others.

    Raises:
        ValueError: they do not fit on the device.
    """
    try:
        images = _empty(len(samples), preprocessing, device)
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"{len(samples)} photos of {preprocessing.size} px do not fit on {device}: set "
            "data.storage to memory or stream"
        ) from error
    unreadable: Unreadable = {}
    for start in range(0, len(samples), _CHUNK):
        chunk = samples[start : start + _CHUNK]
        decoded = _empty(len(chunk), preprocessing)

        def attempt(i: int, chunk: Sequence[Sample] = chunk, decoded: Tensor = decoded) -> None:
            _decode_into(decoded[i], chunk[i], preprocessing)

        unreadable |= failures(attempt, chunk, threads)
        images[start : start + len(chunk)] = decoded
    if unreadable:
        kept = [i for i, sample in enumerate(samples) if sample.path not in unreadable]
        samples = [samples[i] for i in kept]
        images = images[kept]
    return ResidentPhotos(samples, images), unreadable


def choose_storage(photo_bytes: int, device: torch.device, processes: int) -> Storage:
    """The fastest place that has room for so many bytes of decoded photos.

    Args:
        photo_bytes: of all splits that are needed at once.
        device: that trains. Photos may take a quarter of a GPU's free memory: the rest is for the
            network.
        processes: on this machine, each with a copy of its own. Together they may take half of
            the free host memory.
    """
    if device.type == "cuda" and 4 * photo_bytes <= torch.cuda.mem_get_info(device)[0]:
        return "device"
    return "memory" if 2 * photo_bytes * processes <= _free_host_memory() else "stream"


def _empty(photos: int, preprocessing: Preprocessing, device: torch.device | None = None) -> Tensor:
    size = preprocessing.size
    return torch.empty((photos, 3, size, size), dtype=torch.uint8, device=device)


def _decode_into(image: Tensor, sample: Sample, preprocessing: Preprocessing) -> None:
    """Write a photo's pixels to a uint8 tensor [3, S, S]."""
    pixels = preprocessing(load_crop(sample, preprocessing.size))
    np.copyto(image.numpy(), pixels.transpose(2, 0, 1))


def _free_host_memory() -> int:
    """Bytes of host memory that can be had; in a container no more than it may use."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
        found.append(int(lines["MemAvailable"].split()[0]) * 1024)
    limits = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
    texts = [Path(limit).read_text().strip() for limit in limits if Path(limit).is_file()]
    return min([*found, *(int(text) for text in texts if text.isdigit())])
