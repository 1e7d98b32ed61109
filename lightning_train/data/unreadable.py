"""Photos that cannot be decoded: found all at once, told of once, and left out if one says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from lightning_train.data.crops import load_crop
from lightning_train.data.samples import DatasetError, Sample

__all__ = ["IfUnreadable", "Unreadable", "failures", "find_unreadable", "tell_unreadable"]

# Path of a photo → why it cannot be used.
Unreadable = dict[Path, str]
IfUnreadable = Literal["error", "skip"]

_NAMED = 5


def find_unreadable(samples: Sequence[Sample], size: int, threads: int) -> Unreadable:
    """Decode all photos and keep none: better now than in the middle of a run of hours.

    Args:
        samples: what to read.
        size: of the network's input, see `load_crop`.
        threads: that decode.
    """
    return failures(lambda i: load_crop(samples[i], size), samples, threads)


def failures(
    attempt: Callable[[int], object], samples: Sequence[Sample], threads: int
) -> Unreadable:
    """The samples for whose position the attempt fails with a `DatasetError`."""

    def failure(index: int) -> str | None:
        try:
            attempt(index)
        except DatasetError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(threads) as pool:  # Pillow decodes outside the GIL
        found = list(pool.map(failure, range(len(samples))))
    return {sample.path: why for sample, why in zip(samples, found, strict=True) if why}


def tell_unreadable(unreadable: Mapping[Path, str], photos: int) -> str:
    """One sentence that counts them, without a full stop.

    Args:
        unreadable: one or more.
        photos: how many were read.
    """
    paths = sorted(unreadable)
    others = ", ".join(map(str, paths[1:_NAMED])) + (", …" if len(paths) > _NAMED else "")
    return (
        f"{len(paths)} of {photos} photos cannot be used: {unreadable[paths[0]]}"
        f"{f' (the same goes for {others})' if others else ''}"
    )
