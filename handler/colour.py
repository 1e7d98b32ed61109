"""Colours as their file means them, brought to sRGB: what screens show and training saw.

Phones store Display P3 and presses their own inks; read as sRGB, the first look pale and the second
are a guess.
"""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

__all__ = ["to_srgb"]

# A profile that moves no colour further than this (of 255) is sRGB in all but name, as that of most
# photos: these keep their pixels to the bit, and cost nothing.
_NOTICEABLE = 3


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert an RGB or CMYK image to RGB as sRGB means it.

    Args:
        image: RGB or CMYK, 8 bits a channel.
        profile: the ICC profile of its colours. None, a broken one and one for other images count
            as sRGB; CMYK is then converted by rule of thumb.
    """
    transform = _transform(profile, image.mode) if profile else None
    if transform is not None:
        return transform.apply(image)
    return image if image.mode == "RGB" else image.convert("RGB")


# Most photos are from few devices. A transform has up to 2 MB.
@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """What brings the profile's colours to sRGB; None if they stay as they are."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
        if mode == "RGB" and _changes_little(transform):
            return None
    # Little CMS refuses profiles that are broken or for other kinds of images; neither is a reason
    # to refuse the photo.
    except Exception:
        return None
    return transform


def _changes_little(transform: ImageCms.ImageCmsTransform) -> bool:
    levels = np.linspace(0, 255, 9).round().astype(np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(27, 27, 3)
    moved = np.asarray(transform.apply(Image.fromarray(colours)), dtype=int) - colours
    return int(np.abs(moved).max()) <= _NOTICEABLE
