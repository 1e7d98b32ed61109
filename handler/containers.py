"""JPEG and PNG files taken apart: the decoder gets the parts that make pixels and nothing else.

A file may be a few pixels in 20 MB of comments, empty chunks or EXIF directories. Pillow handles
each of those in Python, for up to ten seconds, warns on stderr about every broken tag, and refuses
photos over text that nobody asked for. So all of it is left out here, at the speed of a search.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from handler.errors import ImageUnreadableError
from handler.metadata import exif_orientation, inflate_profile, join_profile

__all__ = ["JpegFile", "PngFile"]

# No photo comes near these; what does is made to keep a core busy. A progressive photo has a dozen
# scans (libjpeg goes over every pixel for each), 4 MB of metadata come as 64 JPEG segments, and
# 20 MB of pixels as 2500 PNG chunks of the usual 8 kB.
_MAX_SCANS = 100
_MAX_SEGMENTS = 5_000
_MAX_CHUNKS = 50_000

# What follows a 0xFF in a JPEG is a marker unless it is one of these: a 0xFF in the data, a
# filling byte, or a restart, which belongs to the data too.
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_TEM, _EOI, _SOS, _APP0, _APP1, _APP2, _APP14, _APP15, _COM = (
    0x01, 0xD9, 0xDA, 0xE0, 0xE1, 0xE2, 0xEE, 0xEF, 0xFE,
)  # fmt: skip
# Baseline, extended and progressive frames with Huffman codes: all that browsers show.
_FRAMES = {0xC0, 0xC1, 0xC2}
_OTHER_FRAMES = {0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
# The colour space of the pixels is said by these two.
_KEPT_APPS = {_APP0, _APP14}


@dataclass(frozen=True, slots=True)
class JpegFile:
    """A JPEG's first image.

    Attributes:
        size: width and height as stored, before any turning.
        orientation: EXIF's, 1 to 8.
        icc_profile: the colour profile, if there is one.
        is_multi_scan: whether it is progressive or the like, so that all its coefficients are held
            in memory while it is decoded.
    """

    size: tuple[int, int]
    orientation: int
    icc_profile: bytes | None
    is_multi_scan: bool
    # Segments and scans in order; those that refine frequencies above zero are marked.
    _parts: list[tuple[bool, memoryview]]

    def pixels(self, scale: int) -> bytes:
        """A file that decodes to the same picture at 1/`scale` of its size (1, 2, 4 or 8).

        At 1/8 a pixel is the mean of a block, frequency zero: the other scans of a progressive file
        would be read for nothing, and they are most of it.
        """
        return b"".join(part for is_detail, part in self._parts if scale < 8 or not is_detail)

    @classmethod
    def read(cls, data: bytes | bytearray) -> JpegFile:
        """Take a JPEG apart.

        Raises:
            ImageUnreadableError: it is coded in a way that is not read, or made to waste time.
            ValueError, struct.error: it has no header that could be read.
        """
        view = memoryview(data)
        parts = [(False, view[:2])]
        size: tuple[int, int] | None = None
        exif: memoryview | None = None
        profile: dict[int, memoryview] = {}
        profile_parts = scans = 0
        for code, start, end in _segments(data):
            body = view[start + 4 : end]
            is_detail = False
            if code in _FRAMES and size is None:
                height, width = struct.unpack_from(">HH", body, 1)
                size = width, height
            elif code in _OTHER_FRAMES:
                raise ImageUnreadableError(
                    "The JPEG image is lossless or arithmetically coded, which is not read. "
                    "Save it as an ordinary (baseline or progressive) JPEG."
                )
            elif code == _SOS:
                scans += 1
                if scans > _MAX_SCANS:
                    raise ImageUnreadableError(
                        f"The JPEG image has more than {_MAX_SCANS} scans. "
                        "Save it as a baseline JPEG."
                    )
                is_detail = len(body) > 2 * body[0] + 1 and body[2 * body[0] + 1] > 0
            elif code == _APP1 and exif is None and bytes(body[:6]) == b"Exif\0\0":
                exif = body
            elif code == _APP2 and bytes(body[:12]) == b"ICC_PROFILE\0" and len(body) > 14:
                profile.setdefault(body[12], body[14:])
                profile_parts = body[13]
            if code not in _KEPT_APPS and (_APP0 <= code <= _APP15 or code == _COM):
                continue
            parts.append((is_detail, view[start:end]))
        if size is None:
            raise ValueError("a JPEG without a frame")
        return cls(
            size,
            exif_orientation(exif),
            join_profile(profile, profile_parts),
            is_multi_scan=scans > 1,
            _parts=parts,
        )


def _segments(data: bytes | bytearray) -> Iterator[tuple[int, int, int]]:
    """The marker segments (marker, start, end) of a JPEG; that of a scan ends behind its data.

    Raises:
        ImageUnreadableError: there are too many.
        ValueError: one before the pixels reaches over the end of the file.
    """
    position, scans = 2, 0
    for _ in range(_MAX_SEGMENTS):
        marker = _MARKER.search(data, position)
        if marker is None:
            return
        start = marker.start()
        code = data[start + 1]
        if code == _EOI:
            yield code, start, start + 2
            return
        if code == _TEM:  # has no length
            position = start + 2
            continue
        length = int.from_bytes(data[start + 2 : start + 4], "big")
        position = start + 2 + length
        if length < 2 or position > len(data):
            if not scans:
                raise ValueError("a JPEG that ends in its header")
            # Damage within the pixels: how much can still be shown is the decoder's to say.
            yield code, start, len(data)
            return
        if code == _SOS:
            scans += 1
            following = _MARKER.search(data, position)
            position = len(data) if following is None else following.start()
        yield code, start, position
    raise ImageUnreadableError(
        f"The JPEG image has more than {_MAX_SEGMENTS} segments. Save it without its metadata."
    )


# Header, palette, transparent colours. Gamma and chromaticities are left out: nobody heeds them.
_KEPT_CHUNKS = {b"IHDR", b"PLTE", b"tRNS"}
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"


@dataclass(frozen=True, slots=True)
class PngFile:
    """A PNG's image: of an animated one, that which is shown where nothing moves.

    Attributes:
        size: width and height as stored, before any turning.
        orientation: EXIF's, 1 to 8.
        icc_profile: the colour profile, if there is one.
        is_animated: whether there are more images in it.
    """

    size: tuple[int, int]
    orientation: int
    icc_profile: bytes | None
    is_animated: bool
    _parts: list[memoryview]

    def pixels(self) -> bytes:
        """A file that decodes to the same picture."""
        return b"".join((*self._parts, _PNG_END))

    @classmethod
    def read(cls, data: bytes | bytearray) -> PngFile:
        """Take a PNG apart.

        Raises:
            ImageUnreadableError: it is made to waste time.
            ValueError, struct.error: it has no header that could be read.
        """
        view = memoryview(data)
        parts = [view[:8]]
        first_idat = last_idat = 0
        said: dict[bytes, memoryview] = {}
        for name, start, end in _chunks(data):
            if name == b"IDAT":
                first_idat = first_idat or start
                # Those behind another chunk belong to no image.
                if last_idat in (0, start):
                    last_idat = end
            # The first of each counts, as below; for the decoder it would be the last.
            elif name in _KEPT_CHUNKS and name not in said and not first_idat:
                parts.append(view[start:end])
            said.setdefault(name, view[start + 8 : end - 4])
        parts.append(view[first_idat:last_idat])
        width, height = struct.unpack_from(">II", said.get(b"IHDR", b""))
        frames = said.get(b"acTL", b"")[:4]
        return cls(
            (width, height),
            exif_orientation(said.get(b"eXIf")),
            inflate_profile(said[b"iCCP"]) if b"iCCP" in said and b"sRGB" not in said else None,
            is_animated=int.from_bytes(frames, "big") > 1,
            _parts=parts,
        )


def _chunks(data: bytes | bytearray) -> Iterator[tuple[bytes, int, int]]:
    """The chunks (name, start, end) of a PNG; the last may be cut off."""
    position = 8
    for _ in range(_MAX_CHUNKS):
        if position + 12 > len(data):
            return
        length, name = struct.unpack_from(">I4s", data, position)
        start, position = position, min(position + 12 + length, len(data))
        yield name, start, position
        if name == b"IEND":
            return
    raise ImageUnreadableError(
        f"The PNG image has more than {_MAX_CHUNKS} chunks. Save it again with another program."
    )
