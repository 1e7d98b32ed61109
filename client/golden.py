"""Golden photos: does a new version say what the old one says?"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from client.errors import VersionError
from client.management import TorchServe
from client.photos import find_photos

__all__ = ["Agreement", "compare", "golden_photos", "probe_photo"]

# Enough to fill the worker's batches, and few enough to leave room for users.
_AT_ONCE = 4
_PROBE_SIDE = 64


@dataclass(frozen=True, slots=True)
class Agreement:
    """What the new version makes of the golden photos, beside the old one.

    Attributes:
        photos: how many both were asked about.
        identified: how many of them the old version identified.
        agreed: how many of these the new one identifies as the same car.
        differences: a line for each of these that it does not.
    """

    photos: int
    identified: int
    agreed: int
    differences: tuple[str, ...]

    @property
    def share(self) -> float:
        """Agreed among identified; 1 where none was."""
        return self.agreed / self.identified if self.identified else 1.0


def golden_photos(folder: Path) -> list[Path]:
    """The photos anywhere in a folder, in order.

    Raises:
        VersionError: there is none.
    """
    photos = find_photos(folder) if folder.is_dir() else []
    if not photos:
        raise VersionError(f"there are no golden photos in {folder}: name a folder that has some")
    return photos


def compare(torchserve: TorchServe, old: str, new: str, photos: Sequence[Path]) -> Agreement:
    """Ask two versions about the same photos.

    Args:
        torchserve: where both are registered.
        old: the version to agree with.
        new: the version under test.
        photos: files.

    Raises:
        VersionError: a version fails, or a photo can't be read.
    """

    def ask_both(path: Path) -> tuple[str, str | None, str | None]:
        try:
            photo = path.read_bytes()
        except OSError as error:
            raise VersionError(f"can't read the golden photo {path}: {error.strerror}") from error
        said = [_identified(*torchserve.predict(version, photo)) for version in (old, new)]
        return path.name, said[0], said[1]

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        answers = list(pool.map(ask_both, photos))
    counted = [it for it in answers if it[1] is not None]
    differences = tuple(
        f"{name}: {old} says {before}, {new} says {after or 'nothing for certain'}"
        for name, before, after in counted
        if before != after
    )
    return Agreement(len(answers), len(counted), len(counted) - len(differences), differences)


def _identified(status: int, body: Mapping[str, Any]) -> str | None:
    """The car, where the verdict is that it is one of the known. Its name and not its number:
    versions with other label tables can be compared too."""
    known = status == HTTPStatus.OK and body["verdict"] == "identified"
    return str(body["label"]) if known else None


def probe_photo() -> bytes:
    """A small PNG of noise: not a car, but enough to see that a version answers."""
    noise = random.Random(0)  # noqa: S311  (any noise will do)
    rows = b"".join(b"\0" + noise.randbytes(3 * _PROBE_SIDE) for _ in range(_PROBE_SIDE))
    header = struct.pack(">IIBBBBB", _PROBE_SIDE, _PROBE_SIDE, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
