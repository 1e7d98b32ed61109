"""API keys: named, hashed at rest, revoked while the gateway runs.

They live in one JSON file, which the gateway reads and `carid keys` writes:

    {"keys": [{"name": "laptop", "sha256": "9f86d0…", "created": "2026-01-31T12:00:00+00:00",
               "per_minute": null}]}

A key is `carid_` and 256 random bits. That is too much to guess from its hash, however fast the
hash is, so plain SHA-256 does what passwords need salt and a slow function for.

This module needs the standard library only: the command line uses it too, where the gateway's
packages may not be installed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gateway.shared_file import OwnerError, lock_file, make_folder, replace_file

__all__ = ["ApiKey", "KeyStore", "KeyStoreError"]

_PREFIX = "carid_"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")

# What tells one state of the file from the next: every change is a new file in the old one's place.
_Stamp = tuple[int, int, int]


class KeyStoreError(Exception):
    """A key can't be made, found or revoked; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is known of a key: all but the key.

    Attributes:
        name: whose it is or what it is for.
        sha256: its hash, in hexadecimal digits.
        created: when, in UTC and ISO 8601.
        per_minute: photos a minute, where it is not the gateway's default.
    """

    name: str
    sha256: str
    created: str
    per_minute: int | None = None


class KeyStore:
    """The keys in one file, which any number of processes may read and change at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp: _Stamp | None = None
        self._by_hash: dict[str, ApiKey] = {}

    def find(self, secret: str) -> ApiKey | None:
        """The key that this is, None if it is none or was revoked; a change counts at once.

        Raises:
            KeyStoreError: the file can't be read.
        """
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unreadable(error) from error
        stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
        if stamp != self._stamp:
            self._by_hash = {key.sha256: key for key in self.list()}
            self._stamp = stamp
        return self._by_hash.get(_hash(secret))

    def list(self) -> tuple[ApiKey, ...]:
        """All keys, oldest first; none where there is no file.

        Raises:
            KeyStoreError: the file can't be read.
        """
        try:
            entries = json.loads(self.path.read_bytes())["keys"]
            return tuple(_parse(entry) for entry in entries)
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise self._unreadable(error) from error

    def create(self, name: str, per_minute: int | None = None) -> str:
        """Make a key.

        Args:
            name: letters, digits and `. _ @ -`, up to 64; no two keys share one.
            per_minute: photos a minute; None for the gateway's default.

        Returns:
            The key itself, seen here and never again.

        Raises:
            KeyStoreError: the name is taken or no good, or the file can't be read or written.
        """
        if not _NAME.fullmatch(name):
            raise KeyStoreError(
                f"{name!r} can't be a key's name: take up to 64 letters, digits and . _ @ -, "
                "a letter or digit first."
            )
        if per_minute is not None and per_minute < 1:
            raise KeyStoreError("A key needs at least 1 photo a minute.")
        with self._locked():
            keys = self.list()
            if any(key.name == name for key in keys):
                raise KeyStoreError(
                    f"There is a key named {name!r} already. Take another name, or revoke that one "
                    "first."
                )
            return self._add(keys, name, per_minute)

    def create_first(self, name: str) -> str | None:
        """Make a key if there never was one; None where the file exists, even if all are revoked.

        Raises:
            KeyStoreError: the file can't be written.
        """
        if self.path.exists():  # perhaps where nothing can be written, as in a mounted secret
            return None
        with self._locked():
            return None if self.path.exists() else self._add((), name, None)

    def revoke(self, name: str) -> None:
        """Take a key back: the next request with it is refused.

        Raises:
            KeyStoreError: there is no such key, or the file can't be read or written.
        """
        with self._locked():
            keys = self.list()
            kept = [key for key in keys if key.name != name]
            if len(kept) == len(keys):
                names = ", ".join(key.name for key in keys) or "none at all"
                raise KeyStoreError(f"There is no key named {name!r} in {self.path}, only {names}.")
            self._write(kept)

    def _add(self, keys: Iterable[ApiKey], name: str, per_minute: int | None) -> str:
        secret = _PREFIX + secrets.token_urlsafe(32)
        created = datetime.now(UTC).isoformat(timespec="seconds")
        self._write([*keys, ApiKey(name, _hash(secret), created, per_minute)])
        return secret

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes from changing the file; the lock is a file that stays."""
        with contextlib.ExitStack() as stack:
            try:
                make_folder(self.path.parent)
                lock = stack.enter_context(lock_file(self.path))
            except OSError as error:
                raise self._unwritable(error) from error
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _write(self, keys: Iterable[ApiKey]) -> None:
        text = json.dumps({"keys": [asdict(key) for key in keys]}, indent=2) + "\n"
        try:
            replace_file(self.path, text)
        except OSError as error:
            raise self._unwritable(error) from error
        except OwnerError as error:
            raise KeyStoreError(str(error)) from error

    def _unreadable(self, error: Exception) -> KeyStoreError:
        reason = error.strerror if isinstance(error, OSError) else "it is no key file"
        return KeyStoreError(f"The key file {self.path} can't be read: {reason}.")

    def _unwritable(self, error: OSError) -> KeyStoreError:
        return KeyStoreError(f"The key file {self.path} can't be written: {error.strerror}.")


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _parse(entry: dict[str, Any]) -> ApiKey:
    """Raises LookupError, TypeError or ValueError for what is none."""
    key = ApiKey(**entry)
    texts = (key.name, key.sha256, key.created)
    rate_is_one = key.per_minute is None or (type(key.per_minute) is int and key.per_minute > 0)
    if not rate_is_one or not all(isinstance(text, str) for text in texts):
        raise ValueError("no key")
    return key
