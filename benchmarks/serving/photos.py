"""The photos that all contestants answer: as crops are, and as telephones take them."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

__all__ = ["KINDS", "write_photos"]

# What results call them, and a telephone's 12 megapixels.
KINDS = {"small": "up to 640 px", "12MP": "4000×3000 px"}
_SMALL_SIDE = 640
_BIG = (4000, 3000)
# Enlarging leaves nothing between the pixels to compress, where a sensor leaves noise: with this
# much of it (standard deviation, of 255) the files have a telephone's 2 to 4 MB.
_NOISE = 5.0
_BIG_QUALITY = 90


def write_photos(
    folder: Path | None, out: Path, kinds: Collection[str], small: int = 32, big: int = 8
) -> None:
    """Write the photos as JPEG files, into one folder per kind.

    Args:
        folder: real photos; without one, textured images are made up.
        out: gets `small/`, and `12MP/` if that is among the kinds.
        kinds: some of `KINDS`.
        small: how many small photos at most.
        big: how many big ones at most, made by enlarging small ones.

    Raises:
        ValueError: the folder holds no JPEG.
    """
    files = list(_real(folder, small) if folder else _made_up(small))
    for kind in {"small", *kinds}:
        (out / kind).mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(files):
        (out / "small" / f"{number:03}.jpg").write_bytes(data)
    for number, data in enumerate(files[:big] if "12MP" in kinds else []):
        (out / "12MP" / f"{number:03}.jpg").write_bytes(_enlarged(data, seed=number))


def _real(folder: Path, count: int) -> Iterator[bytes]:
    """Files as they are; those that are bigger than a small photo are made smaller."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if not paths:
        raise ValueError(f"no .jpg in {folder}: name a folder of photos with --photos")
    for path in paths[:: max(1, len(paths) // count)][:count]:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            if max(image.size) <= _SMALL_SIDE:
                yield data
            else:
                yield _jpeg(ImageOps.contain(image.convert("RGB"), (_SMALL_SIDE, _SMALL_SIDE)), 88)


def _made_up(count: int) -> Iterator[bytes]:
    """Textures of all scales, as photos have them: equally strong noise in every octave."""
    for number in range(count):
        random = np.random.default_rng(number)
        pixels = np.full((480, _SMALL_SIDE, 3), 128.0)
        for cell in (1, 2, 4, 8, 16, 32, 64, 128):
            shape = (480 // cell + 1, _SMALL_SIDE // cell + 1, 3)
            noise = Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8))
            octave = noise.resize((_SMALL_SIDE, 480), Image.Resampling.BICUBIC)
            pixels += (np.asarray(octave) - 128.0) * (0.1 if cell < 8 else 0.3)
        yield _jpeg(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), 88)


def _enlarged(data: bytes, seed: int) -> bytes:
    with Image.open(io.BytesIO(data)) as image:
        big = ImageOps.fit(image.convert("RGB"), _BIG, Image.Resampling.BICUBIC)
    noise = np.random.default_rng(seed).normal(0, _NOISE, (_BIG[1], _BIG[0], 1))
    pixels = (np.asarray(big, dtype=np.float32) + noise).clip(0, 255).astype(np.uint8)
    return _jpeg(Image.fromarray(pixels), _BIG_QUALITY)


def _jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
