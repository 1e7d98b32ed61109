"""Which photos there are, and their bytes: on this machine or in a bucket.

A photo's name is its absolute path or its URI (`s3://bucket/key`), the same in every run.
"""

from __future__ import annotations

import io
import os
import posixpath
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.dataset
from fsspec.utils import glob_translate
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem

from bulk.errors import BulkError
from handler.decode import MAX_BYTES

__all__ = ["PHOTO_SUFFIXES", "absolute", "list_photos", "read_photo"]

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".heic", ".heif")
_COLUMNS = ("photo", "path", "uri", "url", "file", "file_name", "filename")
_WILDCARD = re.compile(r"[*?\[]")


def absolute(place: str) -> str:
    """The same place, whatever folder a command is typed in."""
    return place if "://" in place else os.path.abspath(place)  # noqa: PTH100  (keeps "..", "*")


def list_photos(source: str, column: str | None = None) -> pa.ChunkedArray:
    """The names of a source's photos, each once.

    Args:
        source: `absolute` folder (all photos in it, by their suffix, also deeper), glob pattern
            (`*` within a folder, `**` across), or listing file: text with a name per line, CSV or
            Parquet. Relative names in a listing are relative to its folder.
        column: of a CSV or Parquet listing; None for the first with a usual name.

    Raises:
        BulkError: there is no such source, or it can't be read.
    """
    try:
        filesystem, path = _locate(source)
        kind = filesystem.get_file_info(path).type
        if kind == FileType.Directory:
            names = _found(source, re.compile(r".*"), PHOTO_SUFFIXES)
        elif kind == FileType.File:
            names = _listed(source, column)
        elif wildcard := _WILDCARD.search(source):
            folder = source[: wildcard.start()].rpartition("/")[0]
            names = _found(folder or "/", re.compile(glob_translate(source)))
        else:
            raise BulkError(
                f"there is no {source}: name a folder, a pattern in quotes like 'cars/*.jpg', or a "
                "file that lists photos"
            )
        # Built piece by piece: as Python's objects, names take several times the memory.
        builder = pa.chunked_array(_chunks(names), pa.string())
    except (OSError, ValueError, ImportError) as error:
        raise BulkError(f"can't list {source}: {error}") from error
    return pa.chunked_array([pc.unique(builder)], pa.string())


def read_photo(name: str) -> bytes:
    """A photo's bytes; of a file that is too large to be answered only enough to tell.

    Raises:
        OSError: it is not there or can't be read.
    """
    try:
        filesystem, path = _locate(name)
        with filesystem.open_input_stream(path) as file:
            data: bytes = file.read(MAX_BYTES + 1)
    except (ValueError, ImportError) as error:  # a URI that nothing here can read
        raise OSError(str(error)) from error
    return data


@cache
def _filesystem(base: str) -> tuple[FileSystem, str]:
    """Of a bucket, once for all its photos: a connection takes longer than a photo."""
    filesystem, root = FileSystem.from_uri(base)
    return filesystem, root.rstrip("/")


def _locate(name: str) -> tuple[FileSystem, str]:
    """Where a name lies.

    Only `scheme://host` is read as a URI: in keys, `#`, `%` and spaces mean themselves.
    """
    base, key = _split(name)
    if not base:
        return LocalFileSystem(), name
    filesystem, root = _filesystem(base)
    return filesystem, f"{root}/{key}"


def _split(name: str) -> tuple[str, str]:
    scheme, separator, rest = name.partition("://")
    host, _, key = rest.partition("/")
    return (f"{scheme}://{host}/", key) if separator else ("", name)


def _found(
    folder: str, pattern: re.Pattern[str], suffixes: tuple[str, ...] = ("",)
) -> Iterator[str]:
    """Names of the files under a folder, folder by folder, in the order of their names."""
    base, _ = _split(folder)
    for name in _in_bucket(folder, base) if base else _on_disk(folder):
        if name.lower().endswith(suffixes) and pattern.fullmatch(name):
            if not base:
                _require_text(name)
            yield name


def _require_text(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the name {name!r} is no UTF-8: rename that file") from error


def _in_bucket(folder: str, base: str) -> Iterator[str]:
    filesystem, path = _locate(folder)
    root = _filesystem(base)[1] + "/"
    waiting = [path]
    while waiting:
        entries = filesystem.get_file_info(FileSelector(waiting.pop()))
        entries.sort(key=lambda entry: entry.path)
        waiting += [entry.path for entry in reversed(entries) if entry.type == FileType.Directory]
        for entry in entries:
            if entry.type == FileType.File:
                yield base + entry.path.removeprefix(root)


def _on_disk(folder: str) -> Iterator[str]:
    """Not into linked folders: they may lead in circles, and give a photo many names."""

    def fail(error: OSError) -> None:
        raise error

    for parent, folders, files in os.walk(folder, onerror=fail):
        folders.sort()
        for file in sorted(files):
            yield os.path.join(parent, file)  # noqa: PTH118  (a million of them)


def _listed(listing: str, column: str | None) -> Iterator[str]:
    folder = posixpath.dirname(listing)
    for name in _lines(listing, column):
        if not name or not name.strip():
            continue
        if "://" in name:
            yield name
        elif "://" in folder:
            yield f"{folder}/{name}"
        else:
            yield os.path.normpath(Path(folder, name))


def _lines(listing: str, column: str | None) -> Iterator[str | None]:
    filesystem, path = _locate(listing)
    suffix = posixpath.splitext(path)[1].lower()
    if suffix not in (".csv", ".parquet"):
        with io.TextIOWrapper(filesystem.open_input_stream(path), "utf-8-sig") as lines:
            yield from (line.rstrip("\r\n") for line in lines)
        return
    table = pyarrow.dataset.dataset(path, filesystem=filesystem, format=suffix[1:])
    names = table.schema.names
    if suffix == ".csv":  # 0001 is a name here, and no number
        texts = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
        as_text = pyarrow.dataset.CsvFileFormat(convert_options=texts)
        table = pyarrow.dataset.dataset(path, filesystem=filesystem, format=as_text)
    wanted = [column] if column else [*(name for name in _COLUMNS if name in names), *names[:1]]
    if wanted[0] not in names:
        raise BulkError(f"{listing} has no column {column!r}, but: {', '.join(names)}")
    for batch in table.to_batches(columns=wanted[:1]):
        yield from batch.column(0).cast(pa.string()).to_pylist()


def _chunks(names: Iterable[str]) -> Iterator[pa.Array]:
    chunk: list[str] = []
    for name in names:
        chunk.append(name)
        if len(chunk) == 10_000:
            yield pa.array(chunk, pa.string())
            chunk = []
    yield pa.array(chunk, pa.string())
