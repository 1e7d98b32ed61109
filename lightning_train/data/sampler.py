"""Which photos each process sees, in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Sized

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DistributedSampler

__all__ = ["CarSampler", "sampling_weights"]


class CarSampler(DistributedSampler[int]):
    """A run on W processes sees the very batches that it would see on one.

    The order of an epoch depends on seed and epoch alone. Of each global batch process r takes
    positions r, r+W, r+2W, …; nothing is padded and nothing repeated, so that validation counts
    each photo once. (It is a `DistributedSampler` so that Lightning leaves it in place and tells
    it the epoch, and because the contract is the same.)

    Args:
        photos: the data set; only its length matters.
        batch_size: photos of a global batch, a multiple of `processes`.
        rank: of this process.
        processes: W.
        shuffle: draw an order, and leave out what does not fill a last batch (whose statistics
            would be noise); otherwise keep the photos' order, and all of them.
        weights: [N], chance of each photo to be drawn, with replacement; None: each photo once.
        seed: of the run.
        batches_done: asked when the first epoch begins: how many of its batches to leave out
            because an earlier run, which this one resumes, has trained on them.
    """

    def __init__(
        self,
        photos: Sized,
        batch_size: int,
        *,
        rank: int = 0,
        processes: int = 1,
        shuffle: bool = False,
        weights: Tensor | None = None,
        seed: int = 0,
        batches_done: Callable[[], int] = int,
    ) -> None:
        super().__init__(
            photos,  # type: ignore[arg-type]  # only its length is asked for
            num_replicas=processes,
            rank=rank,
            shuffle=shuffle,
            seed=seed,
        )
        self.weights = weights
        self.batch_size = batch_size
        # Fewer photos than a batch are one batch all the same.
        full = len(photos) - len(photos) % batch_size or len(photos)
        self._mine = slice(rank, full if shuffle else len(photos), processes)
        self._batches_done: Callable[[], int] | None = batches_done

    def __len__(self) -> int:
        return len(range(self._mine.start, self._mine.stop, self._mine.step))

    def __iter__(self) -> Iterator[int]:
        # A generator: nothing happens, and `batches_done` is not asked, before the first photo is.
        done, self._batches_done = (self._batches_done or int)(), None
        mine = self._order()[self._mine]
        yield from mine[done * (self.batch_size // self.num_replicas) :].tolist()

    def _order(self) -> Tensor:
        """All positions of this epoch, [N]."""
        photos = len(self.dataset)  # type: ignore[arg-type]
        if not self.shuffle:
            return torch.arange(photos)
        # Hashed together: seed 1 in epoch 1 shall not be seed 2 in epoch 0.
        state = np.random.SeedSequence([self.seed, self.epoch]).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(state[0]))
        if self.weights is None:
            return torch.randperm(photos, generator=generator)
        return torch.multinomial(self.weights, photos, replacement=True, generator=generator)


def sampling_weights(class_ids: Sequence[int], power: float) -> Tensor | None:
    """Chance of each photo, [N], so that a class of n photos is drawn in proportion to n^(1-power).

    Args:
        class_ids: of the photos.
        power: 0 (every photo the same: None is returned) to 1 (every class the same); 0.5 is the
            square-root sampling of Mahajan et al. 2018 (arXiv 1805.00932).
    """
    if power == 0:
        return None
    ids = torch.tensor(class_ids)
    return torch.bincount(ids).double().pow(-power)[ids]
