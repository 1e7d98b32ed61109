"""When two spellings are one class name."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["plain", "spelled"]


def spelled(name: str) -> str:
    """A name as answers and reports show it: single spaces, accents in one piece (NFC)."""
    return " ".join(unicodedata.normalize("NFC", name).split())


def plain(name: str) -> str:
    """A name without what people, file systems and archives change: case, "/", "_", "-", accents
    in pieces. Two names that are the same then are one class."""
    return " ".join(re.split(r"[\s/_-]+", spelled(name))).casefold()
