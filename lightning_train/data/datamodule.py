"""The Lightning data module: from a data set on disk to the batches of a run."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import distributed
from torch.utils.data import DataLoader

from handler.cores import usable_cores
from handler.preprocessing import Preprocessing
from lightning_train.data.batch import Batch
from lightning_train.data.sampler import CarSampler, sampling_weights
from lightning_train.data.samples import CarDataset, DatasetError, Split
from lightning_train.data.selection import Selection
from lightning_train.data.storage import (
    Photos,
    ResidentPhotos,
    Storage,
    StreamedPhotos,
    choose_storage,
    decode_photos,
)
from lightning_train.data.unreadable import (
    IfUnreadable,
    Unreadable,
    find_unreadable,
    tell_unreadable,
)

__all__ = ["CarDataModule"]

_SPLITS: dict[str, tuple[Split, ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
}


class CarDataModule(pl.LightningDataModule):
    """Stanford Cars or your own cars, see `lightning_train.data.layouts` for the layouts.

    The batches of a run depend on its seed alone: not on where the photos are kept, not on the
    number of processes, and not on whether it was interrupted and resumed, be it within an epoch.

    Args:
        root: folder of the data set.
        size: side in pixels that photos are squashed to; augmentations may train on fewer.
        mean: per-channel mean of the network's input, for pixels scaled to 0…1.
        std: per-channel standard deviation, likewise.
        batch_size: photos a step, of all processes together.
        sampling_power: how far training evens out the classes: 0 sees every photo once in an
            epoch, 1 draws every class equally often (with replacement), 0.5 in proportion to the
            square root of its photos.
        storage: where decoded photos are kept: `device` (fastest), host `memory`, or nowhere
            (`stream`: worker processes decode them from disk in every epoch); `auto` takes the
            first of them that has the room.
        workers: processes (stream) or threads (else) that decode; None: one for each core.
        unreadable: whether a photo that cannot be decoded is an `error` or left out (`skip`);
            either way all of them are counted and the first named before training begins.
        max_classes: keep only so many classes, drawn by their names.
        photos_per_class: train on no more of each class, drawn by their names.
        long_tail: make training as unbalanced as this ratio of the largest to the smallest class
            (Cui et al. 2019, arXiv 1901.05555). Neither this nor the line above touches `val` and
            `test`.
        seed: of the order of the photos, and of what augmentation and dropout draw in each step;
            None: that of the run (`seed_everything`).
    """

    def __init__(
        self,
        root: str,
        size: int = 224,
        mean: tuple[float, float, float] = (0.485, 0.456, 0.406),
        std: tuple[float, float, float] = (0.229, 0.224, 0.225),
        batch_size: int = 64,
        sampling_power: float = 0.0,
        storage: Storage = "auto",
        workers: int | None = None,
        unreadable: IfUnreadable = "error",
        max_classes: int | None = None,
        photos_per_class: int | None = None,
        long_tail: float | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        _check("batch_size", batch_size, batch_size >= 1, "1 or more")
        _check("sampling_power", sampling_power, 0 <= sampling_power <= 1, "0 … 1")
        _check("workers", workers, workers is None or workers >= 0, "0 or more")
        _check("max_classes", max_classes, max_classes is None or max_classes >= 2, "2 or more")
        _check(
            "photos_per_class",
            photos_per_class,
            photos_per_class is None or photos_per_class >= 1,
            "1 or more",
        )
        _check("long_tail", long_tail, long_tail is None or long_tail >= 1, "1 or more")
        self.root = Path(root)
        self.batch_size = batch_size
        self.preprocessing = Preprocessing(size, mean, std)
        self.sampling_power = sampling_power
        self.storage = storage
        self.workers = workers
        self.unreadable = unreadable
        self.max_classes = max_classes
        self.photos_per_class = photos_per_class
        self.long_tail = long_tail
        self.seed = seed
        self._selection = Selection(self.root, max_classes, photos_per_class, long_tail)
        self._photos: dict[Split, Photos] = {}

    @property
    def class_names(self) -> list[str]:
        """The classes in order: the training split's, or the test split's if there is no other."""
        return [label.label for label in self._selection.labels]

    @property
    def class_counts(self) -> list[int]:
        """Training photos of each class, [C], in the order of `class_names`.

        Known before anything is decoded, so photos that turn out to be unreadable are counted. A
        root that has only a test split says 1 for every class: nothing will be trained on it.
        """
        return self._selection.class_counts

    def dataset(self, split: Split) -> CarDataset:
        """One split as it is used, its class ids those of `class_names` even if it lacks some.

        The photos of `val` and `test` come in the order of their loaders (of one process). Once
        `setup` has decoded a split, photos that it skipped are gone from here too.

        Raises:
            DatasetError: the split is missing, broken or empty, or has classes of its own.
        """
        dataset = self._selection.split(split)
        photos = self._photos.get(split)
        return CarDataset(dataset.labels, photos.samples) if photos else dataset

    def setup(self, stage: str) -> None:
        """Decode the splits that `stage` needs.

        Raises:
            DatasetError: a split is missing, broken or empty, or has classes of its own; photos
                are unreadable.
            ValueError: the processes cannot share the batch, or the memory is too small.
        """
        self._batch_size_here()  # before the work
        wanted = [split for split in _SPLITS.get(stage, ()) if split not in self._photos]
        if not wanted:
            return
        datasets = {split: self.dataset(split) for split in wanted}
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        count = sum(len(dataset.samples) for dataset in datasets.values())
        size = count * 3 * self.preprocessing.size**2
        storage = self.storage
        if storage == "auto":
            storage = self._agreed(choose_storage(size, device, self._processes_here()))
        place = {"device": f"decoded on {device}", "memory": "decoded in host memory"}
        rank_zero_info(
            f"{' and '.join(f'{len(d.samples)} {split}' for split, d in datasets.items())} photos "
            f"of {self.root}: {size / 1e9:.2f} GB, {place.get(storage, 'streamed from disk')}"
        )
        loaded = {split: self._load(data, storage, device) for split, data in datasets.items()}
        self._report({p: why for _, found in loaded.values() for p, why in found.items()}, count)
        for split, (photos, _) in loaded.items():
            if len(photos) < self._processes():
                raise DatasetError(
                    f"{len(photos)} usable {split} photos in {self.root} are not enough: each of "
                    f"the run's processes ({self._processes()}) needs one"
                )
            self._photos[split] = photos

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled full batches; what is left over waits for another epoch's shuffle."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[Batch]:
        """Every validation photo once."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        """Every test photo once."""
        return self._loader("test")

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Seed every training step by itself: what it draws does not depend on the past.

        So a resumed run augments and drops out as the uninterrupted one would have, and every
        process draws numbers of its own.
        """
        if self.trainer is not None and self.trainer.training:
            # Not `ready`: that counts a step which Ctrl-C cut, and which is taken again.
            step = self.trainer.fit_loop.epoch_loop.batch_progress.total.completed
            sequence = np.random.SeedSequence([self._seed(), step, self._rank()])
            torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0]))
        return batch

    def _agreed(self, storage: Storage) -> Storage:
        """The slowest of all processes' choices: they must load in the same way."""
        choices = [storage] * self._processes()
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_gather_object(choices, storage)
        order: tuple[Storage, ...] = ("device", "memory", "stream")
        return max(choices, key=order.index)

    def _load(
        self, dataset: CarDataset, storage: Storage, device: torch.device
    ) -> tuple[Photos, Unreadable]:
        threads = max(self._workers(), 1)
        if storage != "stream":
            where = device if storage == "device" else torch.device("cpu")
            return decode_photos(dataset.samples, self.preprocessing, where, threads)
        # Each process looks at its share, or many of them would take many times as long.
        rank, processes = self._rank(), self._processes()
        unreadable = find_unreadable(
            dataset.samples[rank::processes], self.preprocessing.size, threads
        )
        if processes > 1:
            shares: list[Unreadable] = [{} for _ in range(processes)]
            distributed.all_gather_object(shares, unreadable)
            unreadable = {path: why for share in shares for path, why in share.items()}
        readable = [sample for sample in dataset.samples if sample.path not in unreadable]
        return StreamedPhotos(readable, self.preprocessing), unreadable

    def _report(self, unreadable: Unreadable, photos: int) -> None:
        """Say once what is unreadable.

        Raises:
            DatasetError: anything is, and shall be an error.
        """
        if not unreadable:
            return
        what = tell_unreadable(unreadable, photos)
        if self.unreadable == "error":
            raise DatasetError(f"{what}; or leave them out: data.unreadable=skip")
        rank_zero_warn(f"{what}. Left out")

    def _loader(self, split: Split) -> DataLoader[Batch]:
        photos = self._photos[split]
        train = split == "train"
        seed = self._seed()
        sampler = CarSampler(
            photos,
            self.batch_size,
            rank=self._rank(),
            processes=self._processes(),
            shuffle=train,
            weights=sampling_weights([s.class_id for s in photos.samples], self.sampling_power)
            if train
            else None,
            seed=seed,
            batches_done=self._batches_done if train else int,
        )
        streamed = isinstance(photos, StreamedPhotos)
        workers = self._workers() if streamed else 0
        on_host = streamed or (isinstance(photos, ResidentPhotos) and not photos.images.is_cuda)
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        if not streamed:
            # There is nothing for worker processes to do.
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        return _Loader(
            photos,
            batch_size=self._batch_size_here(),
            sampler=sampler,
            drop_last=train and len(photos) >= self.batch_size,
            collate_fn=_already_a_batch,  # type: ignore[arg-type]  # a batch, not a list
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=on_gpu and on_host,
            # Of its own, or a loader would draw from the generator that augmentations use.
            generator=torch.Generator().manual_seed(seed),
        )

    def _batches_done(self) -> int:
        """Batches of the epoch under way that the run being resumed has trained on.

        Lightning only counts them; 0 at the beginning of any other epoch.
        """
        if self.trainer is None:
            return 0
        return int(self.trainer.fit_loop.epoch_loop.batch_progress.current.ready)

    def _seed(self) -> int:
        return self.seed if self.seed is not None else int(os.environ.get("PL_GLOBAL_SEED", "0"))

    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer else 0

    def _processes(self) -> int:
        return self.trainer.world_size if self.trainer else 1

    def _processes_here(self) -> int:
        """Processes of the run on this machine."""
        return self.trainer.num_devices if self.trainer else 1

    def _workers(self) -> int:
        if self.workers is not None:
            return self.workers
        if "SLURM_CPUS_PER_TASK" in os.environ:  # the cores of this process alone
            return int(os.environ["SLURM_CPUS_PER_TASK"])
        return max(usable_cores() // self._processes_here(), 1)

    def _batch_size_here(self) -> int:
        """This process's share of a batch.

        Raises:
            ValueError: the processes cannot share it.
        """
        processes = self._processes()
        if self.batch_size % processes:
            near = max(round(self.batch_size / processes), 1) * processes
            raise ValueError(
                f"data.batch_size={self.batch_size} is for all {processes} processes together and "
                f"must be a multiple of {processes}, such as {near}"
            )
        return self.batch_size // processes


class _Loader(DataLoader[Batch]):
    """A DataLoader that begins when its first batch is asked for.

    Lightning calls `iter` long before that, when it has told neither the sampler the epoch nor the
    loops what a checkpoint says; worker processes would begin at once, with the wrong photos.
    """

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        yield from super().__iter__()

    # With these two Lightning knows that the loader can be resumed within an epoch. The state is
    # Lightning's own count of batches, which CarDataModule._batches_done reads.
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        pass


def _already_a_batch(batch: Batch) -> Batch:
    """`Photos.__getitems__` has collated it."""
    return batch


def _check(name: str, value: object, right: bool, wanted: str) -> None:
    if not right:
        raise ValueError(f"data.{name}={value}: must be {wanted}")
