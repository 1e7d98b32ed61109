"""From a checkpoint to a model archive: quantised, calibrated, checked, packaged."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from scipy.special import softmax

import handler
from handler.engine import OpenVinoEngine
from handler.identifier import CarIdentifier
from handler.labels import CarLabel, stanford_cars_labels, write_labels
from handler.manifest import ModelManifest
from handler.preprocessing import Preprocessing
from lightning_train.car_detector import fit_car_detector
from lightning_train.data import Sample, load_crop, read_dataset
from lightning_train.evaluation import metrics
from lightning_train.evaluation.evaluate import score
from lightning_train.evaluation.outside import other_photos
from lightning_train.evaluation.report import print_figures
from lightning_train.export import export_openvino, float_logits, load_classifier, quantize
from lightning_train.model_card import model_card

__all__ = ["archive"]

MODEL_NAME = "car_identifier"
_SELFCHECK_PHOTOS = 4
_HANDLER = Path(handler.__file__).parent


def archive(
    checkpoint: Path,
    version: str,
    data: Path,
    out: Path = Path("model_store/car_identifier.mar"),
    recipe: Path | None = None,
    calibration_photos: int = 600,
    precision: float = 0.95,
    keep_cars: float = 0.995,
) -> None:
    """Quantise a checkpoint and package it for TorchServe, with its model card beside it.

    Training photos set the 8-bit ranges; validation photos, which training never saw, set the
    temperature and the verdict's threshold, and measure what quantisation cost.

    Args:
        checkpoint: what `fit` wrote, e.g. runs/NAME/checkpoints/best.ckpt.
        version: version of the archive, e.g. 1.1.
        data: the data set it was trained on. With a folder `not_cars` in it, of photos of
            anything else, the archive learns to say `not_a_car`.
        out: the archive to write; the model card gets its name with .md.
        recipe: the configuration it was trained with, quoted in the model card.
        calibration_photos: training photos that set the ranges of the 8-bit numbers.
        precision: share of `identified` answers that shall be right, for cars the model knows.
        keep_cars: share of cars that shall not be answered `not_a_car`.
    """
    recipe_text = recipe.read_text(encoding="utf-8") if recipe else None
    model = load_classifier(checkpoint)
    preprocessing = model.preprocessing
    train, val = read_dataset(data, "train"), read_dataset(data, "val")
    names = [label.label for label in val.labels]
    if names != model.hparams["class_names"]:
        raise ValueError(f"{data} has other classes than {checkpoint} was trained on")

    chosen = np.random.default_rng(0).permutation(len(train.samples))[:calibration_photos]
    print(f"quantising {model.hparams['network']} with {len(chosen)} training photos", flush=True)
    val_pixels = _pixels(val.samples, preprocessing)
    truth = np.array([sample.class_id for sample in val.samples])
    exact = float_logits(model, val_pixels)
    ranges = _pixels([train.samples[i] for i in chosen], preprocessing)
    graph = quantize(export_openvino(model.network, preprocessing), ranges)

    with tempfile.TemporaryDirectory() as temporary:
        content = Path(temporary)
        # What stays float stays exact: fp16 would save a megabyte at most.
        ov.save_model(graph, content / "model.xml", compress_to_fp16=False)
        write_labels(val.labels, content / "labels.csv")
        engine = OpenVinoEngine(content / "model.xml")
        logits, features = _run(engine, val_pixels)
        others = other_photos(data / "not_cars", "fit")
        if not others:
            print(f"no photos in {data / 'not_cars'}: this archive will never say not_a_car")
        else:
            photos = (load_crop(Sample(path, 0), preprocessing.size) for path in others)
            _, other_features = _run(engine, np.stack([preprocessing(photo) for photo in photos]))
            held_out = features[1::2] if len(features) > 1 else features
            fit_car_detector(features[::2], other_features, held_out, keep=keep_cars).write(
                content / "car_detector.npz"
            )
        np.savez_compressed(
            content / "selfcheck.npz",
            images=val_pixels[:_SELFCHECK_PHOTOS],
            logits=logits[:_SELFCHECK_PHOTOS],
        )
        temperature, min_confidence = _calibrate(logits, truth, precision)
        manifest = ModelManifest(
            name=MODEL_NAME,
            version=version,
            engine="openvino",
            network=model.hparams["network"],
            preprocessing=preprocessing,
            temperature=temperature,
            min_confidence=min_confidence,
            selfcheck_atol=_selfcheck_tolerance(logits),
            provenance={
                "checkpoint_sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
                "data": _data_set(val.labels),
                "classes": len(names),
                "training_photos": len(train.samples),
                "validation_photos": len(val.samples),
                "built": datetime.now(UTC).isoformat(timespec="seconds"),
            },
        )
        manifest.write(content / "model.json")
        # From here on the archive's own code measures it, self-check first.
        scores = score(CarIdentifier.from_directory(content), val, data)
        before = metrics.accuracies(exact, truth, val.labels)
        manifest = replace(
            manifest,
            metrics={
                "validation": {
                    "float": before,
                    "int8": {name: scores["figures"][name] for name in before},
                },
                "int8_minus_float_top1": scores["figures"]["top1"] - before["top1"],
                "int8_float_agreement": float(
                    (exact.argmax(axis=1) == logits.argmax(axis=1)).mean()
                ),
                "honesty": {
                    name: value for name, value in scores["figures"].items() if name not in before
                },
                "outside": scores["outside"],
            },
        )
        manifest.write(content / "model.json")
        _package(content, version, out)
    card = model_card(
        manifest,
        precision=precision,
        keep_cars=keep_cars,
        recipe=recipe_text,
    )
    out.with_suffix(".md").write_text(card, encoding="utf-8")
    print_figures(f"{manifest.network} on validation photos", manifest.metrics["validation"])
    print(
        f"int8 - float = {100 * manifest.metrics['int8_minus_float_top1']:+.2f} points of top-1\n"
        f"{out}: version {version}, {out.stat().st_size / 1e6:.1f} MB"
    )


def _pixels(samples: Sequence[Sample], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Network input [N, H, W, 3]."""
    return np.stack([preprocessing(load_crop(sample, preprocessing.size)) for sample in samples])


def _data_set(labels: Sequence[CarLabel]) -> str:
    return "Stanford Cars 196" if tuple(labels) == stanford_cars_labels() else "your own"


def _selfcheck_tolerance(logits: NDArray[np.float32]) -> float:
    """How far another machine's logits may lie from these.

    Another instruction set rounds a little differently (measured: up to 7 % of the logits' own
    spread on SSE4.1, nothing from AVX2 on); wrong weights or channels move them by more.
    """
    return round(float(logits.std()) / 4, 3)


def _run(
    engine: OpenVinoEngine, pixels: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logits [N, C] and features [N, F] of the engine that the worker will run."""
    outputs = [engine.run(pixels[i : i + 8]) for i in range(0, len(pixels), 8)]
    return (
        np.concatenate([output.logits for output in outputs]),
        np.concatenate([output.features for output in outputs]),
    )


def _calibrate(
    logits: NDArray[np.float32], truth: NDArray[np.int64], precision: float
) -> tuple[float, float]:
    """Temperature and lowest confidence of `identified`, from validation photos alone."""
    temperature = metrics.fit_temperature(logits, truth)
    confidence = softmax(logits / temperature, axis=1).max(axis=1)
    right = logits.argmax(axis=1) == truth
    min_confidence = metrics.fit_min_confidence(confidence, right, precision)
    return round(temperature, 4), round(min_confidence, 4)


def _package(content: Path, version: str, out: Path) -> None:
    """Run torch-model-archiver over the folder, with the handler's own code beside the model."""
    shutil.copytree(
        _HANDLER,
        content / "handler",
        ignore=shutil.ignore_patterns("__pycache__", "torchserve_handler.py", "model-config.yaml"),
    )
    extra_files = content / "extra"
    extra_files.mkdir()
    for path in list(content.iterdir()):
        if path not in (content / "model.xml", extra_files):
            shutil.move(path, extra_files / path.name)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as export_path:
        subprocess.run(  # noqa: S603  (our own arguments)
            [
                *(sys.executable, "-c"),
                "from model_archiver.model_packaging import generate_model_archive as run; run()",
                *("--model-name", MODEL_NAME, "--version", version),
                *("--serialized-file", str(content / "model.xml")),
                *("--handler", str(_HANDLER / "torchserve_handler.py")),
                *("--config-file", str(_HANDLER / "model-config.yaml")),
                *("--extra-files", str(extra_files)),
                *("--export-path", export_path),
            ],
            check=True,
        )
        # Moved into place whole: a server that starts meanwhile sees the old archive or the new.
        staged = out.with_suffix(".mar.new")
        shutil.copyfile(Path(export_path) / f"{MODEL_NAME}.mar", staged)
        staged.replace(out)
