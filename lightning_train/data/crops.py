"""Decode one photo and cut the car out."""

from __future__ import annotations

import io

from PIL import Image

from handler.decode import decode_photo
from handler.errors import PhotoError
from lightning_train.data.samples import DatasetError, Sample

__all__ = ["load_crop"]

_CROP_MARGIN = 16  # pixels around the annotated box
_UNREDUCED = 1_000_000  # no photo has twice as many pixels on its shorter side


def load_crop(sample: Sample, size: int) -> Image.Image:
    """Decode a photo and cut the car out: its box plus 16 px on each side, where there is image.

    It is decoded by the worker's own code, so that training sees what the worker will see; without
    a box, or with one around the whole image (the published 224 px crops), it is no more than that.

    Args:
        sample: the photo.
        size: of the network's input; a photo is decoded at no less than twice this if it can be.

    Returns:
        RGB image in its own size and aspect ratio.

    Raises:
        DatasetError: the file cannot be decoded, or its box is not on it.
    """
    try:
        data = sample.path.read_bytes()
        if sample.box is None or sample.box == (0, 0, *_stored_size(data)):
            return decode_photo(data, min_side=size).image
        image = decode_photo(data, min_side=_UNREDUCED).image
    except (OSError, PhotoError) as error:
        raise DatasetError(
            f"{sample.path} cannot be read as an image ({error}). Replace or delete it"
        ) from error
    left, top, right, bottom = sample.box
    left, right = max(left - _CROP_MARGIN, 0), min(right + _CROP_MARGIN, image.width)
    top, bottom = max(top - _CROP_MARGIN, 0), min(bottom + _CROP_MARGIN, image.height)
    if left >= right or top >= bottom:
        raise DatasetError(
            f"{sample.path} has {image.width}×{image.height} pixels, none of them in its box "
            f"{sample.box}. Correct the box or leave it out"
        )
    return image.crop((left, top, right, bottom))


def _stored_size(data: bytes) -> tuple[int, int]:
    """Width and height that the header announces; nothing of them if it is not readable."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.size
    except (OSError, Image.DecompressionBombError):
        return 0, 0  # decode_photo will say what is wrong
