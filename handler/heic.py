"""How much there is to decode in a HEIC file: more, maybe, than the size it announces.

A HEIC photo is mostly a grid of tiles. libheif holds each coded image to the size that is announced
for it, but the tiles of a photo not to the size of the photo before it has decoded them all: a few
kB that announce 64×64 pixels may be a thousand tiles of a hundred megapixels.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterator
from functools import cache

from handler.errors import ImageUnreadableError

__all__ = ["coded_pixels"]

# Phones' files have some hundred boxes, and lists of a few kB; libheif reads no more than a
# thousand images.
_MAX_BOXES = 10_000
_MAX_LIST_BYTES = 2**18

# What the type of an auxiliary image says if it is the photo's transparency. Depth and the like,
# which phones add too, are not decoded.
_ALPHA = (b":auxid:1", b":alpha")


def coded_pixels(data: bytes | bytearray) -> int:
    """Pixels that the decoder goes over for that image of a HEIC file which has most of them.

    Raises:
        ImageUnreadableError: images are laid over each other, on a canvas of any size.
        Exception: of nearly any kind: it is damaged, or made to waste time.
    """
    [meta] = [content[4:] for content in _named(memoryview(data), b"meta")] or [memoryview(b"")]
    if b"iovl" in _item_types(meta):
        raise ImageUnreadableError(
            "The HEIC image consists of images laid over each other, which is not read. "
            "Save it as a single image."
        )
    announced, see_through = _sizes(meta)
    parts: dict[int, list[int]] = defaultdict(list)
    alphas: dict[int, list[int]] = defaultdict(list)
    for kind, source, targets in _references(meta):
        if kind == b"dimg":
            parts[source] += targets
        elif kind == b"auxl" and source in see_through:
            for target in targets:
                alphas[target].append(source)

    @cache
    def pixels(item: int) -> int:
        own = max(announced.get(item, 0), sum(pixels(part) for part in parts[item]))
        return own + sum(pixels(alpha) for alpha in alphas[item])

    return max((pixels(item) for item in announced), default=0)


def _boxes(content: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """The boxes (type, content) that lie side by side; the last may be cut off."""
    position = 0
    for _ in range(_MAX_BOXES):
        if position + 8 > len(content):
            return
        size, kind = struct.unpack_from(">I4s", content, position)
        start = position + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", content, start)
            start += 8
        end = position + size if size else len(content)
        if end < start:
            return  # garbage, as at the end of a file
        yield kind, content[start:end]
        position = end
    raise ValueError("too many boxes")


def _named(content: memoryview, name: bytes) -> list[memoryview]:
    """The box of this type, if there is one.

    Raises:
        ValueError: there are several, and which of them counts is not for us to say.
    """
    found = [inner for kind, inner in _boxes(content) if kind == name]
    if len(found) > 1:
        raise ValueError(f"{len(found)} boxes {name!r}")
    return found


def _lists(content: memoryview, name: bytes) -> Iterator[tuple[int, int, memoryview]]:
    """Version, flags and content of the box of this type, which lists something of images."""
    for box in _named(content, name):
        if len(box) > _MAX_LIST_BYTES:
            raise ValueError(f"a list {name!r} of {len(box)} bytes")
        yield box[0], int.from_bytes(box[1:4], "big"), box[4:]


def _item_types(meta: memoryview) -> set[bytes]:
    """What kinds of images (and other items) there are."""
    types = set()
    for version, _, entries in _lists(meta, b"iinf"):
        for _, entry in _boxes(entries[4 if version else 2 :]):
            at = 10 if entry[0] >= 3 else 8
            types.add(bytes(entry[at : at + 4]))
    return types


def _references(meta: memoryview) -> Iterator[tuple[bytes, int, tuple[int, ...]]]:
    """What images (kind, image, others) have to do with others, by their numbers."""
    for version, _, references in _lists(meta, b"iref"):
        number = "I" if version else "H"
        for kind, reference in _boxes(references):
            source, count = struct.unpack_from(f">{number}H", reference)
            start = struct.calcsize(f">{number}H")
            yield kind, source, struct.unpack_from(f">{count}{number}", reference, start)


def _sizes(meta: memoryview) -> tuple[dict[int, int], set[int]]:
    """How many pixels are announced for each image, and which images are transparency."""
    announced: dict[int, int] = {}
    see_through: set[int] = set()
    for content in _named(meta, b"iprp"):
        properties = [each for box in _named(content, b"ipco") for each in _boxes(box)]
        for item, index in _associations(content):
            kind, value = properties[index - 1] if index else (b"", memoryview(b""))
            if kind == b"ispe":
                width, height = struct.unpack_from(">II", value, 4)
                announced[item] = max(announced.get(item, 0), width * height)
            elif kind == b"auxC" and any(name in bytes(value[:100]) for name in _ALPHA):
                see_through.add(item)
    return announced, see_through


def _associations(properties: memoryview) -> Iterator[tuple[int, int]]:
    """Which images have which properties, both by their numbers."""
    for version, flags, entries in _lists(properties, b"ipma"):
        entry, index_size = (">IB" if version else ">HB"), 1 + (flags & 1)
        (count,) = struct.unpack_from(">I", entries)
        position = 4
        for _ in range(count):
            item, indices = struct.unpack_from(entry, entries, position)
            position += struct.calcsize(entry)
            for _ in range(indices):
                index = int.from_bytes(entries[position : position + index_size], "big")
                position += index_size
                # The highest bit says whether a reader must know the property.
                yield item, index & (2 ** (8 * index_size - 1) - 1)
