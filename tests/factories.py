"""Small real things to test with: an archive whose answers can be foretold, and image files."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pillow_heif
from openvino import opset13 as ops
from PIL import Image

from handler.car_detector import CarDetector
from handler.known import KnownScore
from handler.labels import labels_from_names, write_labels
from handler.locator import CarLocator
from handler.manifest import ModelManifest
from handler.preprocessing import Preprocessing

pillow_heif.register_heif_opener()  # so that `encode` can write HEIF

RED, GREEN, BLUE, ORANGE, GREY = (
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (255, 128, 0),
    (128, 128, 128),
)

# What the tiny network takes a red, green, blue and yellow picture for.
TINY_LABELS = labels_from_names(
    [
        "Audi TTS Coupe 2012",
        "Aston Martin V8 Vantage Coupe 2012",
        "BMW X5 SUV 2007",
        "Audi A5 Coupe 2012",
    ]
)
TINY_MANIFEST = ModelManifest(
    name="car_identifier",
    version="1.0",
    engine="openvino",
    network="tiny",
    preprocessing=Preprocessing(size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    temperature=1.0,
    known=KnownScore("max_probability", temperature=1.0, threshold=0.6),
    selfcheck_atol=1e-3,
    metrics={"top1": 1.0},
    provenance={"command": "tests/factories.py"},
)


# Both are positive for the four pictures above, and negative for grey, whose features are about 0.
TINY_DETECTOR = CarDetector(np.array([-0.25, -0.5, -0.5], dtype=np.float32), -0.05)
TINY_LOCATOR = CarLocator(np.array([-20, -40, -40], dtype=np.float32), -3)


def build_tiny_archive_dir(
    directory: Path, *, locator: CarLocator | None = None, **changes: Any
) -> Path:
    """Write an unpacked archive with a real OpenVINO network that tells colours apart.

    A red photo is an Audi TTS, a green one an Aston Martin, a blue one a BMW; orange lies half-way
    between the two Audis, and grey is no car.

    Args:
        directory: where to write, made if need be.
        locator: finds cars on photos; without one, photos are looked at once.
        changes: fields of the manifest to change.
    """
    directory.mkdir(parents=True, exist_ok=True)
    manifest = replace(TINY_MANIFEST, **changes)
    openvino.save_model(_tiny_network(manifest.preprocessing), directory / "model.xml", False)
    write_labels(TINY_LABELS, directory / "labels.csv")
    manifest.write(directory / "model.json")
    np.savez(directory / "classifier.npz", weights=_WEIGHTS)
    TINY_DETECTOR.write(directory / "car_detector.npz")
    if locator is not None:
        locator.write(directory / "car_locator.npz")
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    np.savez(directory / "selfcheck.npz", images=images, logits=_expected_logits(images))
    return directory


def build_tiny_archive(folder: Path, **options: Any) -> Path:
    """`build_tiny_archive_dir` with these options, as a file in this folder: what a .mar is.

    Its files also stay unpacked, in `archive` beside it.
    """
    directory = build_tiny_archive_dir(folder / "archive", **options)
    return Path(shutil.make_archive(str(folder / "tiny"), "zip", directory))


_WEIGHTS = 4.0 * np.array(
    [[1, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, -1]], dtype=np.float32
)  # [class, RGB]


def _tiny_network(preprocessing: Preprocessing) -> openvino.Model:
    pixels = ops.parameter([-1, preprocessing.size, preprocessing.size, 3], np.uint8, "images")
    unit = ops.divide(ops.convert(pixels, "f32"), np.float32(255))
    mean, std = np.float32(preprocessing.mean), np.float32(preprocessing.std)
    normalised = ops.divide(ops.subtract(unit, mean), std)
    features = ops.avg_pool(
        ops.transpose(normalised, np.array([0, 3, 1, 2])),
        strides=[8, 8],
        pads_begin=[0, 0],
        pads_end=[0, 0],
        kernel_shape=[8, 8],
        exclude_pad=False,
    )
    pooled = ops.reduce_mean(features, np.array([2, 3]), keep_dims=False)
    logits = ops.matmul(pooled, _WEIGHTS, transpose_a=False, transpose_b=True)
    outputs = []
    for name, node in (("logits", logits), ("feature_map", features)):
        node.output(0).get_tensor().set_names({name})
        outputs.append(ops.result(node))
    return openvino.Model(outputs, [pixels], "tiny")


def _expected_logits(images: np.ndarray) -> np.ndarray:
    colours = images.reshape(len(images), -1, 3).mean(axis=1) / 127.5 - 1
    return (colours @ _WEIGHTS.T).astype(np.float32)


def picture(colour: tuple[int, int, int] = RED, size: tuple[int, int] = (96, 64)) -> Image.Image:
    """An RGB picture of one colour; `size` is width, height."""
    return Image.new("RGB", size, colour)


Colour = tuple[int, int, int]
Rectangle = tuple[int, int, int, int]


def scene(*cars: tuple[Colour, Rectangle], size: tuple[int, int] = (640, 480)) -> Image.Image:
    """Cars on a grey ground, each a colour and the left, top, right and bottom of its rectangle."""
    image = picture(GREY, size)
    for colour, box in cars:
        image.paste(colour, box)
    return image


def encode(image: Image.Image, image_format: str = "JPEG", **options: Any) -> bytes:
    """A picture as a file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def photo(colour: tuple[int, int, int] = RED, size: tuple[int, int] = (96, 64)) -> bytes:
    """A JPEG of one colour."""
    return encode(picture(colour, size), quality=95)
