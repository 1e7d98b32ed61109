"""What a file says about its pixels: which way up they are, and in which colours.

Everything here is bounded: metadata is the sender's, and most of a file may be metadata.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

__all__ = ["exif_orientation", "inflate_profile", "join_profile"]

# Press profiles have 0.5 to 3 MB, those of cameras and screens a few kB.
_MAX_PROFILE_BYTES = 4 * 2**20

_ORIENTATION_TAG = 0x0112
# TIFF's types of a number that an orientation may be stored as: SHORT, LONG.
_NUMBERS = {3: "H", 4: "I"}


def exif_orientation(exif: bytes | memoryview | None) -> int:
    """EXIF orientation 1-8 of a TIFF header, with or without "Exif" before it.

    1 (upright) where it does not say, or not in a way that can be read: broken metadata is no
    reason to refuse a photo.
    """
    if exif is None:
        return 1
    tiff = memoryview(exif)
    if bytes(tiff[:6]) == b"Exif\0\0":
        tiff = tiff[6:]
    order = {b"II": "<", b"MM": ">"}.get(bytes(tiff[:2]))
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, directory)
        for entry in range(directory + 2, directory + 2 + 12 * entries, 12):
            tag, kind = struct.unpack_from(f"{order}HH", tiff, entry)
            if tag == _ORIENTATION_TAG and kind in _NUMBERS:
                (value,) = struct.unpack_from(order + _NUMBERS[kind], tiff, entry + 8)
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:
        pass  # it points behind its own end
    return 1


def join_profile(parts: Mapping[int, bytes | memoryview], count: int) -> bytes | None:
    """The colour profile that a JPEG holds in parts numbered from 1; None if one is missing."""
    if sorted(parts) != list(range(1, count + 1)):
        return None
    if sum(map(len, parts.values())) > _MAX_PROFILE_BYTES:
        return None
    return b"".join(parts[number] for number in range(1, count + 1)) or None


def inflate_profile(chunk: bytes | memoryview) -> bytes | None:
    """The colour profile in a PNG's `iCCP` chunk; None if it is broken or far too big."""
    _name, _, packed = bytes(chunk).partition(b"\0")
    inflater = zlib.decompressobj()
    try:
        # The first byte names the compression; there is only one.
        profile = inflater.decompress(packed[1:], _MAX_PROFILE_BYTES)
    except zlib.error:
        return None
    return profile if inflater.eof and profile else None
