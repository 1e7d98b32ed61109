"""Files that one user's service reads and another user's command may write.

A file that is replaced in one step is a new file: without more ado it would belong to whoever ran
the command, and `sudo carid keys create` would leave keys that the gateway may not read.

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

__all__ = ["OwnerError", "lock_file", "make_folder", "replace_file"]


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
    number, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)  # mode 0600
    try:
        with os.fdopen(number, "w", encoding="utf-8") as file:
            _give_away(file.fileno(), path)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


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
    lock = path.with_name(f"{path.name}.lock")
    number = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if os.geteuid() == 0:
            with contextlib.suppress(OwnerError):  # whoever writes the file itself is told
                _give_away(number, path)
        yield number
    finally:
        os.close(number)


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
                raise OwnerError(
                    f"{path} belongs to {_user(model.st_uid)}, and would not any more: run this "
                    f"as that user, or as root."
                ) from error
    os.fchmod(number, mode)


def _user(number: int) -> str:
    try:
        return f"the user {pwd.getpwuid(number).pw_name!r}"
    except KeyError:
        return f"the user number {number}"
