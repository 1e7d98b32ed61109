"""Score an archive as it would be served: through the handler's own code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track
from scipy.special import softmax

from handler.archive import extract_archive
from handler.decode import decode_photo
from handler.identifier import CarIdentifier
from handler.manifest import ModelManifest
from lightning_train import metrics
from lightning_train.report import print_figures
from lightning_train.stanford_cars import (
    CarDataset,
    DatasetError,
    Sample,
    Split,
    load_crop,
    read_dataset,
)

__all__ = ["evaluate", "score"]

_BATCH = 8


def evaluate(
    archive: Path, data: Path, split: Split = "val", report: Path | None = None
) -> dict[str, Any]:
    """Measure an archive on labelled photos; print a table and write JSON.

    Args:
        archive: the .mar.
        data: folder of the data set, see `lightning_train.stanford_cars`; photos in its folders
            `not_cars` and `unseen_cars`, if it has them, are scored by verdict.
        split: `train`, `val` (held out of training by this project) or `test` (official).
        report: where the JSON goes; by default runs/evaluation/ARCHIVE-SPLIT.json.
    """
    dataset = read_dataset(data, split)
    with extract_archive(archive) as directory:
        identifier = CarIdentifier.from_directory(directory)
        scores = score(identifier, dataset, data)
    manifest = identifier.manifest
    result = {
        "archive": str(archive),
        "version": manifest.version,
        "network": manifest.network,
        "split": split,
        **scores,
        "recorded": dict(manifest.metrics),
    }
    report = report or Path("runs/evaluation") / f"{archive.stem}-{split}.json"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(json.dumps(result, indent=1))
    _print(result, report)
    return result


def score(identifier: CarIdentifier, dataset: CarDataset, data: Path) -> dict[str, Any]:
    """Run every photo through the worker's core.

    Returns:
        `figures` of the labelled photos; `outside`, figures of the folders of other photos.

    Raises:
        DatasetError: the data set has classes that the model does not.
    """
    manifest = identifier.manifest
    size = manifest.preprocessing.size
    truth = _truth(dataset, identifier)
    photos = [_photo(sample, size) for sample in track(dataset.samples, "labelled photos")]
    logits = _logits(identifier, photos)
    others = {
        name: _logits(identifier, _folder_photos(data / name, size))
        for name in ("not_cars", "unseen_cars")
        if (data / name).is_dir()
    }
    figures = metrics.accuracies(logits, truth, identifier.labels)
    return {
        "figures": figures | _honesty(logits, truth, manifest),
        "outside": {name: _outside(logits, other, manifest) for name, other in others.items()},
    }


def _photo(sample: Sample, size: int) -> Image.Image:
    """What the worker would see of a photo of this car alone."""
    data = sample.path.read_bytes()
    image = decode_photo(data, min_side=size).image
    if sample.box in (None, (0, 0, *image.size)):
        return image
    return load_crop(sample)


def _folder_photos(folder: Path, size: int) -> list[Image.Image]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [
        decode_photo(path.read_bytes(), min_side=size).image for path in track(paths, folder.name)
    ]


def _logits(identifier: CarIdentifier, images: Sequence[Image.Image]) -> NDArray[np.float32]:
    return np.concatenate(
        [
            identifier.run_images(images[i : i + _BATCH]).logits
            for i in range(0, len(images), _BATCH)
        ]
    )


def _truth(dataset: CarDataset, identifier: CarIdentifier) -> NDArray[np.int64]:
    """Class ids in the archive's order, whatever the data set's is."""
    known = {label.label: label.class_id for label in identifier.labels}
    unknown = sorted({label.label for label in dataset.labels} - set(known))
    if unknown:
        raise DatasetError(
            f"the archive does not know {len(unknown)} of the data set's classes, the first: "
            f"{unknown[0]!r}. Evaluate it on the classes it was trained on"
        )
    return np.array([known[dataset.labels[s.class_id].label] for s in dataset.samples])


def _honesty(
    logits: NDArray[np.float32], truth: NDArray[np.int64], manifest: ModelManifest
) -> dict[str, float]:
    confidence = softmax(logits / manifest.temperature, axis=1).max(axis=1)
    identified = (confidence >= manifest.min_confidence) & (
        metrics.energy(logits) >= manifest.min_energy
    )
    right = logits.argmax(axis=1) == truth
    return {
        "calibration_error": metrics.expected_calibration_error(
            logits, truth, manifest.temperature
        ),
        "identified": float(identified.mean()),
        "identified_right": float(right[identified].mean()) if identified.any() else 0.0,
    }


def _outside(
    inside: NDArray[np.float32], outside: NDArray[np.float32], manifest: ModelManifest
) -> dict[str, float]:
    """How well photos the model should not name are told apart from those it should."""
    confidence = softmax(outside / manifest.temperature, axis=1).max(axis=1)
    energy = metrics.energy(outside)
    not_a_car = energy < manifest.min_energy
    identified = ~not_a_car & (confidence >= manifest.min_confidence)
    return {
        "photos": float(len(outside)),
        "not_a_car": float(not_a_car.mean()),
        "uncertain": float((~not_a_car & ~identified).mean()),
        "identified": float(identified.mean()),
        "auroc_energy": metrics.auroc(metrics.energy(inside), energy),
        "auroc_confidence": metrics.auroc(
            softmax(inside / manifest.temperature, axis=1).max(axis=1), confidence
        ),
    }


def _print(result: dict[str, Any], report: Path) -> None:
    title = f"{result['archive']} ({result['network']}, version {result['version']})"
    print_figures(title, {f"{result['split']} split": result["figures"]})
    if result["outside"]:
        print_figures("photos of anything else", result["outside"])
    recorded = result["recorded"].get("int8_minus_float_top1")
    if recorded is not None:
        print(f"recorded when built: int8 - float = {100 * recorded:+.2f} points of top-1")
    print(f"written to {report}")
