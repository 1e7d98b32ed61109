"""From the bytes of several photos to network input, on all cores and within a time limit."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from handler.cores import usable_cores
from handler.decode import OpenPhoto, open_photo
from handler.errors import PhotoError
from handler.preprocessing import Preprocessing
from handler.region import Box

__all__ = ["PATIENCE_S", "PhotoReader", "Source", "View"]

# Who chose what is looked at: nobody (it is the whole photo), its sender, or the worker.
Source = Literal["photo", "box", "found"]

# Decoding the worst photos that are allowed takes seconds each. A batch of them must be over before
# TorchServe loses patience (responseTimeout) and kills the worker, with the good photos in it.
PATIENCE_S = 15.0


@dataclass(frozen=True, slots=True)
class View:
    """A part of a photo as the network sees it.

    Attributes:
        pixels: uint8 [S, S, 3], RGB.
        box: the part of the photo.
        size: of the whole upright photo in pixels, (width, height).
        source: who chose the part.
        warnings: what the sender should know about the photo.
        decode_ms: milliseconds it took.
    """

    pixels: NDArray[np.uint8]
    box: Box
    size: tuple[int, int]
    source: Source = "photo"
    warnings: tuple[str, ...] = ()
    decode_ms: float = 0.0

    @classmethod
    def of(cls, image: Image.Image, preprocessing: Preprocessing, box: Box | None = None) -> View:
        """A view of an RGB image that is decoded already; of a part if the worker found one."""
        whole = Box(0, 0, *image.size)
        part = image if box is None else image.crop((box.left, box.top, box.right, box.bottom))
        source: Source = "photo" if box is None else "found"
        return cls(preprocessing(part), box or whole, image.size, source)


class PhotoReader:
    """Decodes and preprocesses photos side by side: Pillow's decoders leave the GIL to others."""

    def __init__(self, preprocessing: Preprocessing, threads: int | None = None) -> None:
        """Start no thread yet.

        Args:
            preprocessing: the network's.
            threads: photos decoded at a time; None for as many as this process has cores.
        """
        self._preprocessing = preprocessing
        self._pool = ThreadPoolExecutor(threads or usable_cores(), thread_name_prefix="decode")

    def read(
        self,
        wanted: Sequence[tuple[bytes | bytearray, Box | None]],
        *,
        deadline: float,
        found: bool = False,
    ) -> list[View | PhotoError]:
        """Read photos, or parts of them; a bad one changes nothing for the others.

        Args:
            wanted: files as they were sent, and the part to read; None for the whole.
            deadline: `time.monotonic()` at which photos whose turn has not come are given up: for
                a batch, `PATIENCE_S` from its beginning.
            found: whether the parts were found by the worker, not asked for.
        """
        results: dict[int, View | PhotoError] = {}
        opened: dict[int, OpenPhoto] = {}
        for place, (data, box) in enumerate(wanted):
            try:
                opened[place] = open_photo(data, min_side=self._preprocessing.size, box=box)
            except PhotoError as error:
                results[place] = error.detached()

        def decode(place: int) -> View | PhotoError:
            box = wanted[place][1]
            source: Source = "photo" if box is None else "found" if found else "box"
            return self._decode(opened[place], source, deadline)

        # The heavy ones, which wait for each other, last: they must not keep the others waiting.
        places = sorted(opened, key=lambda place: opened[place].is_heavy)
        # No need to wake another thread for one.
        decoded = self._pool.map(decode, places) if len(places) > 1 else map(decode, places)
        results.update(zip(places, decoded, strict=True))
        return [results[place] for place in range(len(wanted))]

    def _decode(self, photo: OpenPhoto, source: Source, deadline: float) -> View | PhotoError:
        start = time.monotonic()
        try:
            decoded = photo.decode(deadline)
        except PhotoError as error:
            return error.detached()
        pixels = self._preprocessing(decoded.image)
        decode_ms = 1000 * (time.monotonic() - start)
        return View(pixels, decoded.box, decoded.size, source, decoded.warnings, decode_ms)
