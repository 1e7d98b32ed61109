"""Files that one user's service reads and another user's command may write.

A file that is replaced in one step is a new file: without more ado it would belong to whoever ran
the command, and `sudo carid keys create` would leave keys that the gateway may not read. `carid
models` writes what is no secret: everybody may read that.

Root's command never follows a link out of a folder that is another user's.

Standard library only, as `keys.py` is.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = [
    "OwnerError",
    "lock_file",
    "lock_for_all",
    "make_folder",
    "new_file_for_all",
    "replace_file",
]

_FOR_ALL = 0o644


class OwnerError(Exception):
    """The new file would not be its old owner's; the text says what to do. Nothing was changed."""


def replace_file(path: Path, text: str) -> None:
    """Write a file in one step, on the disk when this returns.

    Whoever reads meanwhile sees the old file or the new one. The new one has the owner, the group
    and the permissions of the old one. Where there was none it is readable for its owner only,
    which is this process's user, or the folder's owner where that user is root.

    Raises:
        OSError: it can't be written.
        OwnerError: this user can't give it to its owner.
    """
    with _new_file(path) as file:
        _give_away(file.fileno(), path)
        file.write(text.encode())


@contextlib.contextmanager
def new_file_for_all(path: Path) -> Iterator[BinaryIO]:
    """A file to write; it is at `path`, and on the disk, once the block has ended without an error.

    Everybody may read it, whatever the umask. It belongs to this process's user, or to the folder's
    owner where that user is root; whose the old file was makes no difference.

    Raises:
        OSError: it can't be written.
        OwnerError: this user is root, and still can't give it to the folder's owner.
    """
    with _new_file(path) as file:
        _give_to_all(file.fileno(), path)
        yield file


def make_folder(folder: Path) -> None:
    """Make a folder and those above it that are missing; they belong to the owner of the first one.

    Raises:
        OSError: it can't be made.
    """
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    owner = folder.stat()
    for new in reversed(missing):
        new.mkdir(exist_ok=True)
        if os.geteuid() == 0:
            os.chown(new, owner.st_uid, owner.st_gid)
    folder.mkdir(exist_ok=True)  # says so if it is none


@contextlib.contextmanager
def lock_file(path: Path) -> Iterator[int]:
    """Open the lock that belongs to a file, as a descriptor; it is left for the next one.

    Raises:
        OSError: it can't be opened or made.
    """
    with _lock(path.with_name(f"{path.name}.lock")) as number:
        if os.geteuid() == 0:
            with contextlib.suppress(OwnerError):  # whoever writes the file itself is told
                _give_away(number, path)
        yield number


@contextlib.contextmanager
def lock_for_all(lock: Path) -> Iterator[int]:
    """Open a lock, as a descriptor, that whoever may write to its folder can take.

    Raises:
        OSError: it can't be opened or made, or this user may not write to its folder.
    """
    with _lock(lock) as number:
        with contextlib.suppress(OwnerError):  # it is another user's, and can be read at least
            _give_to_all(number, lock)
        yield number


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    """A file for its owner only, which takes the place of `path` in one step, or is removed."""
    number, temporary = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")  # mode 0600
    try:
        with os.fdopen(number, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _lock(lock: Path) -> Iterator[int]:
    """Open a lock's file, made if there is none."""
    try:
        number = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, _FOR_ALL)
    except PermissionError:
        # Root's, from before commands gave it away: it can be locked without being written to.
        if not (lock.exists() and os.access(lock.parent, os.W_OK)):
            raise
        number = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        yield number
    finally:
        os.close(number)


def _give_to_all(number: int, path: Path) -> None:
    """Let everybody read a file, as a descriptor; root's becomes the folder's owner's."""
    folder = path.parent.stat()
    try:
        os.fchmod(number, _FOR_ALL)
        if os.geteuid() == 0 and os.fstat(number).st_uid != folder.st_uid:
            os.fchown(number, folder.st_uid, folder.st_gid)
    except PermissionError as error:
        raise OwnerError(_not_yours(path.parent, folder)) from error


def _give_away(number: int, path: Path) -> None:
    """Give a new file, as a descriptor, what the file at `path` or else its folder says."""
    try:
        model = path.stat()
        mode = stat.S_IMODE(model.st_mode)
    except FileNotFoundError:
        if os.geteuid() != 0:
            return
        model, mode = path.parent.stat(), 0o600
    new = os.fstat(number)
    if (new.st_uid, new.st_gid) != (model.st_uid, model.st_gid):
        try:
            os.fchown(number, model.st_uid, model.st_gid)
        except PermissionError as error:
            # The group is worth a refusal only where it may do something.
            if new.st_uid != model.st_uid or mode & stat.S_IRWXG:
                raise OwnerError(_not_yours(path, model)) from error
    os.fchmod(number, mode)


def _not_yours(path: Path, status: os.stat_result) -> str:
    return (
        f"{path} belongs to {_user(status.st_uid)}, and what this writes would not: run this as "
        "that user, or as root."
    )


def _user(number: int) -> str:
    try:
        return f"the user {pwd.getpwuid(number).pw_name!r}"
    except KeyError:
        return f"the user number {number}"
