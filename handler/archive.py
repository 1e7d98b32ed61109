"""Reading a model archive (.mar) without TorchServe."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from handler.errors import ArchiveError

__all__ = ["extract_archive"]


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
