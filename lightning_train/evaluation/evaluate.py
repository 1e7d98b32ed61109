"""Score an archive as it would be served: through the handler's own code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from scipy.special import softmax

from handler.answer import verdict_of
from handler.archive import extract_archive
from handler.identifier import CarIdentifier
from handler.manifest import ModelManifest
from lightning_train.data import (
    IMAGE_SUFFIXES,
    CarDataset,
    DatasetError,
    Sample,
    Split,
    load_crop,
    read_dataset,
)
from lightning_train.evaluation import metrics
from lightning_train.evaluation.report import print_figures

__all__ = ["evaluate", "other_photos", "score"]

_BATCH = 8


def evaluate(
    archive: Path, data: Path, split: Split = "val", report: Path | None = None
) -> dict[str, Any]:
    """Measure an archive on labelled photos; print a table and write JSON.

    Args:
        archive: the .mar.
        data: folder of the data set, see `lightning_train.data`; photos in its folders `not_cars`
            (the half that no detector is fitted on) and `unseen_cars`, if it has them, are scored
            by verdict.
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
    truth = _truth(dataset, identifier)
    cars = _run(identifier, dataset.samples, "labelled photos")
    others = {
        "not_cars": other_photos(data / "not_cars", "measure"),
        "unseen_cars": other_photos(data / "unseen_cars"),
    }
    figures = metrics.accuracies(cars.logits, truth, identifier.labels)
    return {
        "figures": figures | _honesty(cars, truth, identifier.manifest),
        "outside": {
            name: _outside(
                cars,
                _run(identifier, [Sample(path, 0) for path in paths], name),
                identifier.manifest,
            )
            for name, paths in others.items()
            if paths
        },
    }


def other_photos(folder: Path, part: Literal["fit", "measure"] | None = None) -> list[Path]:
    """Photos of a folder that are none of the model's cars; none if there is no such folder.

    Args:
        folder: searched through all levels.
        part: by file name every second photo: `fit` for the detector, `measure` for its score.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    return {"fit": paths[::2], "measure": paths[1::2], None: paths}[part]


@dataclass(frozen=True, slots=True)
class _Scores:
    """What the model says of N photos: logits [N, C] and car scores [N]."""

    logits: NDArray[np.float32]
    car: NDArray[np.float32]

    def confidence(self, manifest: ModelManifest) -> NDArray[np.float32]:
        result: NDArray[np.float32] = softmax(self.logits / manifest.temperature, axis=1).max(
            axis=1
        )
        return result

    def verdicts(self, manifest: ModelManifest) -> dict[str, NDArray[np.bool_]]:
        """Verdict → which photos got it, [N]."""
        given = np.array(
            [
                verdict_of(car >= 0, confidence, manifest)
                for car, confidence in zip(self.car, self.confidence(manifest), strict=True)
            ]
        )
        return {name: given == name for name in ("identified", "uncertain", "not_a_car")}


def _run(identifier: CarIdentifier, samples: Sequence[Sample], description: str) -> _Scores:
    """Decode and run a batch at a time: a test split of full photos does not fit into memory."""
    size = identifier.manifest.preprocessing.size
    logits, car = [], []
    batches = [samples[i : i + _BATCH] for i in range(0, len(samples), _BATCH)]
    for batch in track(batches, description):
        output = identifier.run_images([load_crop(sample, size) for sample in batch])
        logits.append(output.logits)
        car.append(identifier.car_scores(output))
    return _Scores(np.concatenate(logits), np.concatenate(car))


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


def _honesty(cars: _Scores, truth: NDArray[np.int64], manifest: ModelManifest) -> dict[str, float]:
    verdicts = cars.verdicts(manifest)
    identified = verdicts["identified"]
    right = cars.logits.argmax(axis=1) == truth
    return {
        "calibration_error": metrics.expected_calibration_error(
            cars.logits, truth, manifest.temperature
        ),
        **{verdict: float(which.mean()) for verdict, which in verdicts.items()},
        "identified_right": float(right[identified].mean()) if identified.any() else 0.0,
    }


def _outside(cars: _Scores, others: _Scores, manifest: ModelManifest) -> dict[str, float]:
    """How well photos the model should not name are told apart from those it should."""
    return {
        "photos": float(len(others.logits)),
        **{verdict: float(which.mean()) for verdict, which in others.verdicts(manifest).items()},
        "auroc_car_score": metrics.auroc(cars.car, others.car),
        "auroc_confidence": metrics.auroc(cars.confidence(manifest), others.confidence(manifest)),
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
