"""Reading a model archive (.mar), and what lies in it, without TorchServe."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handler.errors import ArchiveError

__all__ = ["extract_archive", "read_arrays"]


@contextmanager
def extract_archive(path: str | Path) -> Iterator[Path]:
    """Unpack an archive into a temporary directory, removed on leaving the `with` block.

    Raises:
        ArchiveError: there is no such file, or it is no archive.
    """
    path = Path(path)
    if not path.is_file():
        raise ArchiveError(
            f"there is no archive {path}: check the path, or build it (make archive)"
        )
    with tempfile.TemporaryDirectory(prefix="car_identifier_") as directory:
        try:
            with zipfile.ZipFile(path) as archive:
                archive.extractall(directory)
        except (zipfile.BadZipFile, EOFError, NotImplementedError, OSError) as error:
            raise ArchiveError(
                f"{path} is no complete archive ({error}): fetch or build it again"
            ) from error
        yield Path(directory)


def read_arrays(path: Path, *names: str) -> tuple[NDArray[Any], ...]:
    """Read arrays out of an .npz file.

    Raises:
        ArchiveError: the file is missing or damaged, or has no array of such a name.
    """
    try:
        with np.load(path) as stored:
            return tuple(stored[name] for name in names)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ArchiveError(f"can't read {path.name}: {error}") from error
