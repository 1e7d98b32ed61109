"""Which files the command line means: files, folders and patterns."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

__all__ = ["PHOTO_SUFFIXES", "find_photos", "photo_files"]

# The same as in bulk and in training, as tests/test_repo.py holds.
PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".heic", ".heif"})


def find_photos(folder: Path) -> list[Path]:
    """The photos anywhere in a folder, in the order of their names."""
    return sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in PHOTO_SUFFIXES and file.is_file()
    )


def photo_files(names: Iterable[str]) -> Iterator[Path]:
    """The files themselves, whatever their names, the photos in folders, and what patterns match.

    A folder without photos, and a name that neither exists nor matches anything, come as they are:
    each is an outcome of its own.
    """
    for name in names:
        path = Path(name)
        # A file may be called `car[1].jpg`: a pattern is what is no file.
        matches = [path] if _holds(path.exists) else [Path(it) for it in _matches(name)] or [path]
        for match in matches:
            yield from (find_photos(match) if _holds(match.is_dir) else []) or [match]


def _holds(check: Callable[[], bool]) -> bool:
    try:
        return check()
    except OSError:  # a name too long to be one, or a folder that can't be searched
        return False


def _matches(pattern: str) -> list[str]:
    # Path.glob takes no absolute pattern.
    return sorted(glob.glob(pattern, recursive=True)) if glob.has_magic(pattern) else []  # noqa: PTH207
