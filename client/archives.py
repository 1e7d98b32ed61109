"""Model archives (.mar) as files: their version, and the way into TorchServe's model store."""

from __future__ import annotations

import filecmp
import json
import re
import shutil
import zipfile
from pathlib import Path

from client.errors import VersionError
from gateway.shared_file import OwnerError, new_file_for_all

__all__ = [
    "MODEL",
    "archive_name",
    "archive_version",
    "is_version",
    "put_into_store",
    "same_content",
]

MODEL = "car_identifier"


def archive_name(version: str) -> str:
    """What the archive of a version is called in the model store."""
    return f"{MODEL}-{version}.mar"


def archive_version(path: Path) -> str:
    """The version that TorchServe will give the archive.

    Raises:
        VersionError: it is no archive of this project.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            model = json.loads(archive.read("MAR-INF/MANIFEST.json"))["model"]
        name, version = str(model["modelName"]), str(model["modelVersion"])
    except FileNotFoundError as error:
        raise VersionError(f"there is no archive {path}: check the path") from error
    except (OSError, zipfile.BadZipFile, ValueError, LookupError, TypeError) as error:
        raise VersionError(
            f"{path} is no complete model archive ({error}): fetch or build it again"
        ) from error
    if name != MODEL:
        raise VersionError(f"{path} holds the model {name!r}, not {MODEL!r}")
    if not is_version(version):
        raise VersionError(f"{path} has the version {version!r}; versions look like 1.2")
    return version


def is_version(text: str) -> bool:
    """Whether it may be a version: it becomes part of a file's name and of addresses."""
    return re.fullmatch(r"\d+(\.\d+)*", text) is not None


def put_into_store(path: Path, store: Path) -> str:
    """Copy an archive into the model store, unless it lies there; it appears whole or not at all.

    TorchServe may read the copy, whoever runs this: it is the store's owner's, and open to all.

    Returns:
        Its file name there.

    Raises:
        VersionError: it can't be copied, or another archive of its version lies there.
    """
    path = path.resolve()
    if path.parent == store.resolve():
        return path.name
    target = store / archive_name(archive_version(path))
    if target.exists():
        if not same_content(path, target):
            raise VersionError(
                f"{target} has the same version and other content than {path}: build the archive "
                "under a new version, or remove the old file"
            )
        return target.name
    try:
        with path.open("rb") as source, new_file_for_all(target) as copy:
            shutil.copyfileobj(source, copy)
    except (OSError, OwnerError) as error:
        raise VersionError(f"can't copy {path} into the model store: {error}") from error
    return target.name


def same_content(one: Path, other: Path) -> bool:
    """Whether two files hold the same bytes; False where one can't be read."""
    try:
        return filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False
