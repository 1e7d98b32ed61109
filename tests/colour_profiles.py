"""ICC profiles put together by hand, since none may be shipped and Pillow makes only sRGB."""

from __future__ import annotations

import itertools
import struct

import numpy as np

__all__ = ["DISPLAY_P3", "INKS", "NEARLY_SRGB"]


def _fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def _profile(device: bytes, space: bytes, connection: bytes, **tags: bytes) -> bytes:
    directory, content = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        directory += name.encode() + struct.pack(">II", start + len(content), len(data))
        content += data + bytes(-len(data) % 4)
    header = struct.pack(
        ">I4xI4s4s4s12x4s24x", start + len(content), 0x02400000, device, space, connection, b"acsp"
    )
    header += struct.pack(">I", 0) + _fixed(0.9642, 1, 0.8249)
    return header.ljust(128, b"\0") + directory + content


def _xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(*values)


def _rgb_profile(red: bytes, green: bytes, blue: bytes) -> bytes:
    # sRGB's curve, sampled.
    levels = np.linspace(0, 1, 1024)
    light = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    curve = struct.pack(">4s4xI", b"curv", 1024) + (light * 65535).astype(">u2").tobytes()
    return _profile(
        b"mntr", b"RGB ", b"XYZ ", wtpt=_xyz(0.9642, 1, 0.8249),
        rXYZ=red, gXYZ=green, bXYZ=blue, rTRC=curve, gTRC=curve, bTRC=curve,
    )  # fmt: skip


DISPLAY_P3 = _rgb_profile(
    _xyz(0.51512, 0.24120, -0.00105),
    _xyz(0.29198, 0.69225, 0.04189),
    _xyz(0.1571, 0.06657, 0.78407),
)
NEARLY_SRGB = _rgb_profile(
    _xyz(0.43607, 0.22249, 0.01392), _xyz(0.38515, 0.71687, 0.09708), _xyz(0.14307, 0.06061, 0.7141)
)


def _inks() -> bytes:
    """CMYK whose black ink is all that counts: the others leave paper white."""
    lightness = b"".join(
        bytes([255 if black == 0 else 0, 128, 128])
        for *_colours, black in itertools.product((0, 1), repeat=4)
    )
    straight = bytes(range(256))
    table = struct.pack(">4s4xBBBx", b"mft1", 4, 3, 2) + _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    table += straight * 4 + lightness + straight * 3
    return _profile(b"prtr", b"CMYK", b"Lab ", wtpt=_xyz(0.9642, 1, 0.8249), A2B0=table)


INKS = _inks()
