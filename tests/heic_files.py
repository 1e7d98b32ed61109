"""HEIC files put together by hand, as phones do (a grid of tiles) and as nobody does."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from factories import RED, encode, picture

__all__ = ["ALPHA", "DEPTH", "Item", "build_heic", "coded_item", "iso_box", "tiled_heic"]


@dataclass(frozen=True, slots=True)
class Item:
    """An image within a HEIC file.

    Attributes:
        kind: four letters, such as `hvc1` for a coded image.
        size: width and height that are announced for it.
        content: its data.
        properties: boxes.
    """

    kind: bytes
    size: tuple[int, int]
    content: bytes = b""
    properties: tuple[bytes, ...] = ()


def iso_box(name: bytes, *content: bytes, version: int | None = None) -> bytes:
    """A box; one that has versions if its is given."""
    body = (b"" if version is None else bytes([version, 0, 0, 0])) + b"".join(content)
    return struct.pack(">I4s", len(body) + 8, name) + body


ALPHA = iso_box(b"auxC", b"urn:mpeg:hevc:2015:auxid:1\0", version=0)
DEPTH = iso_box(b"auxC", b"urn:mpeg:hevc:2015:auxid:2\0", version=0)


def build_heic(items: Sequence[Item], references: Sequence[tuple[bytes, int, list[int]]]) -> bytes:
    """A HEIC file.

    Args:
        items: its images; the first, number 1, is the one that is shown.
        references: what images (kind, image, others) have to do with others.
    """
    places, information, associations, data = b"", b"", b"", b""
    properties: dict[bytes, int] = {}  # and their numbers, from 1
    for number, item in enumerate(items, 1):
        places += struct.pack(">HHHHII", number, 1, 0, 1, len(data), len(item.content))
        information += iso_box(b"infe", struct.pack(">HH4sx", number, 0, item.kind), version=2)
        its = (iso_box(b"ispe", struct.pack(">II", *item.size), version=0), *item.properties)
        associations += struct.pack(">HB", number, len(its))
        for one in its:
            associations += struct.pack(">B", properties.setdefault(one, len(properties) + 1))
        data += item.content
    relations = b"".join(
        iso_box(kind, struct.pack(f">HH{len(others)}H", number, len(others), *others))
        for kind, number, others in references
    )
    total = struct.pack(">H", len(items))
    meta = iso_box(
        b"meta",
        iso_box(b"hdlr", bytes(4), b"pict", bytes(13), version=0),
        iso_box(b"pitm", struct.pack(">H", 1), version=0),
        iso_box(b"iloc", b"\x44\0", total, places, version=1),
        iso_box(b"iinf", total, information, version=0),
        iso_box(b"iref", relations, version=0),
        iso_box(
            b"iprp",
            iso_box(b"ipco", *properties),
            iso_box(b"ipma", struct.pack(">I", len(items)), associations, version=0),
        ),
        iso_box(b"idat", data),
        version=0,
    )
    return iso_box(b"ftyp", b"heic", bytes(4), b"mif1heic") + meta


def coded_item(announced: tuple[int, int] = (512, 512), *properties: bytes) -> Item:
    """A red image of 512×512 pixels, whatever size is announced for it."""
    coded = encode(picture(RED, (512, 512)), "HEIF")
    settings = iso_box(b"hvcC", _content(coded, b"hvcC"))
    return Item(b"hvc1", announced, _content(coded, b"mdat"), (settings, *properties))


def tiled_heic(
    columns: int,
    rows: int,
    *,
    announced: tuple[int, int] | None = None,
    tile: tuple[int, int] = (512, 512),
    more: Sequence[Item] = (),
    references: Sequence[tuple[bytes, int, list[int]]] = (),
) -> bytes:
    """A red photo in tiles of 512×512 pixels.

    Args:
        columns: tiles beside each other.
        rows: tiles below each other.
        announced: size that is announced for the photo; None for the true one.
        tile: size that is announced for a tile.
        more: images behind the photo and its tiles.
        references: what they have to do with it.
    """
    size = columns * 512, rows * 512
    grid = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, *size)
    photo = Item(b"grid", announced or size, grid)
    tiles = [coded_item(tile)] * (columns * rows)
    parts = (b"dimg", 1, list(range(2, len(tiles) + 2)))
    return build_heic([photo, *tiles, *more], [parts, *references])


def _content(file: bytes, name: bytes) -> bytes:
    start = file.index(name) + 4
    return file[start : start + int.from_bytes(file[start - 8 : start - 4], "big") - 8]
