"""Score an archive as it would be served: through the handler's own code."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.progress import track

from handler.archive import extract_archive
from handler.examiner import Look
from handler.identifier import CarIdentifier
from handler.labels import CarLabel
from handler.manifest import ModelManifest
from handler.reader import View
from handler.region import Box
from lightning_train.data import (
    CarDataset,
    DatasetError,
    IfUnreadable,
    Sample,
    Split,
    load_crop,
    read_dataset,
)
from lightning_train.evaluation import metrics
from lightning_train.evaluation.folder import Subject, write_report
from lightning_train.evaluation.photo_sets import PhotoSets
from lightning_train.evaluation.report import print_figures
from lightning_train.evaluation.result import Evaluation, PhotoScores, Temperature

__all__ = ["evaluate", "examine_images", "photo_scores", "score"]

_BATCH = 8


def evaluate(
    archive: Path,
    data: Path,
    split: Split = "val",
    report: Path | None = None,
    unreadable: IfUnreadable = "error",
) -> dict[str, Any]:
    """Measure an archive on labelled photos; print tables and write a report folder.

    Args:
        archive: the .mar.
        data: folder of the data set, see `lightning_train.data`; photos in its folders `not_cars`
            (the half that no detector is fitted on) and `unseen_cars`, if it has them, are scored
            by verdict.
        split: `train`, `val` (held out of training by this project) or `test` (official).
        report: folder for metrics.json, pictures and index.html; by default
            runs/evaluation/ARCHIVE-SPLIT.
        unreadable: whether a photo that cannot be decoded is an `error` or left out (`skip`).

    Returns:
        What metrics.json says of the photos: `figures`, `outside`, `classes`, `confused_pairs`.
    """
    report = report or Path("runs/evaluation") / f"{archive.stem}-{split}"
    if report.is_file():
        raise ValueError(f"{report} is a file: --report names a folder")
    dataset = read_dataset(data, split)
    with extract_archive(archive) as directory:
        identifier = CarIdentifier.from_directory(directory)
        photos = PhotoSets(data, identifier.manifest.preprocessing.size, unreadable)
        evaluation = _measure(identifier, photos.usable(dataset, split), photos)
    manifest = identifier.manifest
    subject = Subject(
        kind="archive",
        path=str(archive),
        network=manifest.network,
        split=split,
        facts={"version": manifest.version, "data": str(data)},
        config=json.dumps(manifest.to_dict(), indent=1, ensure_ascii=False),
    )
    problems = write_report(report, subject, evaluation)
    _print(subject, evaluation, manifest)
    for problem in problems:
        print(problem)
    print(f"written to {report / 'index.html'}")
    return evaluation.to_json()


def score(identifier: CarIdentifier, dataset: CarDataset, photos: PhotoSets) -> dict[str, Any]:
    """Run every photo through the worker's core.

    Args:
        identifier: of the archive.
        dataset: labelled photos.
        photos: what else is beside them.

    Returns:
        `figures` of the labelled photos; `outside`, figures of the folders of other photos.

    Raises:
        DatasetError: the data set has classes that the model does not.
    """
    evaluation = _measure(identifier, dataset, photos)
    return {"figures": evaluation.figures(), "outside": evaluation.outside_figures()}


def _measure(identifier: CarIdentifier, dataset: CarDataset, photos: PhotoSets) -> Evaluation:
    samples = _in_classes_of(identifier.labels, dataset)
    return Evaluation(
        labels=identifier.labels,
        samples=samples,
        cars=photo_scores(identifier, samples, "labelled photos"),
        temperature=Temperature(
            identifier.manifest.temperature, "validation photos when the archive was built"
        ),
        training=_training_photos(identifier.labels, photos.data),
        outside={
            name: photo_scores(identifier, [Sample(path, 0) for path in paths], name)
            for name, paths in photos.outside().items()
        },
    )


def photo_scores(
    identifier: CarIdentifier, samples: Sequence[Sample], description: str
) -> PhotoScores:
    """What the worker says of photos, N of them.

    A batch at a time: a test split of full photos does not fit into memory.

    Args:
        identifier: of the archive.
        samples: class ids don't matter.
        description: of the progress bar.
    """
    size = identifier.manifest.preprocessing.size
    # Of each look only what is wanted: feature maps of a whole split would fill the memory.
    rows, car_scores, verdicts = [], [], []
    for first in track(range(0, len(samples), _BATCH), description):
        images = [load_crop(sample, size) for sample in samples[first : first + _BATCH]]
        for look in examine_images(identifier, images):
            rows.append(look.logits.copy())
            car_scores.append(look.car_score)
            verdicts.append(look.verdict)
    logits = np.stack(rows)
    return PhotoScores(
        logits,
        known={
            "car_score": np.array(car_scores, dtype=np.float32),
            "known_score": identifier.manifest.known.scores(logits).astype(np.float32),
            "confidence": metrics.confidences(logits, identifier.manifest.temperature),
        },
        verdicts=np.array(verdicts),
    )


def examine_images(
    identifier: CarIdentifier, images: Sequence[Image.Image], *, closer: bool = True
) -> list[Look]:
    """Look at decoded photos as the worker does.

    Args:
        identifier: of the archive.
        images: RGB, one batch.
        closer: whether to look closer at cars that are small on them.
    """
    preprocessing = identifier.manifest.preprocessing

    def reread(wanted: Mapping[int, Box]) -> dict[int, View]:
        return {index: View.of(images[index], preprocessing, box) for index, box in wanted.items()}

    views = [View.of(image, preprocessing) for image in images]
    return identifier.examiner.examine(views, reread if closer else None)


def _in_classes_of(labels: Sequence[CarLabel], dataset: CarDataset) -> tuple[Sample, ...]:
    """The photos with class ids in the archive's order, whatever the data set's is."""
    known = {label.label: label.class_id for label in labels}
    unknown = sorted({label.label for label in dataset.labels} - set(known))
    if unknown:
        raise DatasetError(
            f"the archive does not know {len(unknown)} of the data set's classes, the first: "
            f"{unknown[0]!r}. Evaluate it on the classes it was trained on"
        )
    return tuple(
        replace(sample, class_id=known[dataset.labels[sample.class_id].label])
        for sample in dataset.samples
    )


def _training_photos(labels: Sequence[CarLabel], data: Path) -> tuple[Sample, ...]:
    """The data set's training photos of the model's classes; none where it has no such split."""
    try:
        return _in_classes_of(labels, read_dataset(data, "train"))
    except DatasetError:
        return ()


def _print(subject: Subject, evaluation: Evaluation, manifest: ModelManifest) -> None:
    title = f"{subject.path} ({manifest.network}, version {manifest.version})"
    print_figures(title, {f"{subject.split} split": evaluation.figures()})
    if evaluation.outside:
        print_figures("photos of anything else", evaluation.outside_figures())
    recorded = manifest.metrics.get("int8_minus_float_top1")
    if recorded is not None:
        print(f"recorded when built: int8 - float = {100 * recorded:+.2f} points of top-1")
