"""From a checkpoint to a model archive: exported, calibrated, checked, packaged."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from handler.engine import Engine, OpenVinoEngine
from handler.identifier import CarIdentifier
from handler.known import KnownScore
from handler.labels import CarLabel, stanford_cars_labels, write_labels
from handler.manifest import ModelManifest
from handler.preprocessing import Preprocessing
from handler.torch_engine import TorchEngine
from lightning_train.car_detector import fit_car_detector
from lightning_train.car_locator import fit_car_locator
from lightning_train.classifier import CarClassifier
from lightning_train.closer_looks import fit_closer_looks
from lightning_train.cross_fitting import cross_fitted
from lightning_train.data import IfUnreadable, Sample, load_crop
from lightning_train.evaluation import metrics
from lightning_train.evaluation.evaluate import score
from lightning_train.evaluation.photo_sets import PhotoSets
from lightning_train.evaluation.report import print_figures
from lightning_train.evaluation.scenes import score_scenes
from lightning_train.export import (
    class_weights,
    float_logits,
    write_openvino,
    write_torch,
)
from lightning_train.known_score import fit_known_score
from lightning_train.model_card import few_identified, model_card
from lightning_train.packaging import MODEL_NAME, check_version, package
from lightning_train.run_history import own_records, read_runs
from lightning_train.starting_weights import sha256
from lightning_train.trained import load_classifier

__all__ = ["archive"]

_SELFCHECK_PHOTOS = 4
EngineName = Literal["openvino", "torch"]


def archive(
    checkpoint: Path,
    version: str,
    data: Path,
    out: Path = Path("model_store/car_identifier.mar"),
    recipe: Path | None = None,
    runs: list[Path] | None = None,
    engine: EngineName = "openvino",
    calibration_photos: int = 600,
    precision: float = 0.95,
    keep_cars: float = 0.995,
    scenes: int = 1500,
    unreadable: IfUnreadable = "error",
) -> None:
    """Package a checkpoint for TorchServe, with its model card beside it.

    Training photos set the ranges of the 8-bit numbers; validation photos, which training never
    saw, set the temperature and the verdict's threshold, and measure the engine as packaged.

    Args:
        checkpoint: best.ckpt of a `fit`, or what `export-weights` wrote.
        version: version of the archive, e.g. 2.0.
        data: the data set it was trained on. Photos of anything else in `not_cars` teach it to say
            `not_a_car` and to find a car on a larger scene; with other cars in `unseen_cars`, the
            score that tells them best is chosen.
        out: archive to write, its model card beside it.
        recipe: its configuration; by default the one beside it.
        runs: [A,B], log folders of its runs; by default its own.
        engine: `openvino` quantises to 8 bits, for CPUs; `torch` is for CUDA GPUs.
        calibration_photos: of training, for the ranges of the 8-bit numbers.
        precision: share of `identified` answers that shall be right, for cars the model knows.
        keep_cars: share of cars that shall not be answered `not_a_car`.
        scenes: how many to compose of cars and `not_cars`, to learn where on them a car is.
        unreadable: photos that cannot be decoded: an `error`, or left out (`skip`).
    """
    check_version(version)
    own_recipe, own_runs = own_records(checkpoint)
    recipe = recipe or own_recipe
    recipe_text = recipe.read_text(encoding="utf-8") if recipe else None
    history = read_runs(runs or own_runs)
    model = load_classifier(checkpoint)
    photos = PhotoSets(data, model.preprocessing.size, unreadable)
    train, val = photos.split("train"), photos.split("val")
    names = [label.label for label in val.labels]
    if names != model.hparams["class_names"]:
        raise ValueError(f"{data} has other classes than {checkpoint} was trained on")

    with tempfile.TemporaryDirectory() as temporary:
        content = Path(temporary)
        built = _write_model(engine, model, content, train.samples, calibration_photos)
        pixels = _pixels(val.samples, model.preprocessing)
        logits, features = _run(built.engine, pixels)
        write_labels(val.labels, content / "labels.csv")
        np.savez(content / "classifier.npz", weights=class_weights(model.network))
        np.savez_compressed(
            content / "selfcheck.npz",
            images=pixels[:_SELFCHECK_PHOTOS],
            logits=logits[:_SELFCHECK_PHOTOS],
        )
        backgrounds = photos.others("not_cars", "fit")
        if backgrounds:
            _write_car_finders(
                built.engine, features, backgrounds, train.samples, model.preprocessing,
                keep_cars, scenes, content,
            )  # fmt: skip
        else:
            print(f"no photos in {data / 'not_cars'}: this archive will never say not_a_car")
        truth = np.array([sample.class_id for sample in val.samples])
        unseen = [Sample(path, 0) for path in photos.others("unseen_cars")]
        unseen_logits = (
            _run(built.engine, _pixels(unseen, model.preprocessing))[0] if unseen else None
        )
        known, compared = fit_known_score(logits, truth, unseen_logits, precision)
        manifest = ModelManifest(
            name=MODEL_NAME,
            version=version,
            engine=engine,
            network=model.hparams["network"],
            preprocessing=model.preprocessing,
            temperature=known.temperature,
            known=known,
            selfcheck_atol=_selfcheck_tolerance(engine, logits),
            provenance={
                "checkpoint_sha256": sha256(checkpoint),
                "data": _data_set(val.labels),
                "classes": len(names),
                "training_photos": len(train.samples),
                "validation_photos": len(val.samples),
                "built": datetime.now(UTC).isoformat(timespec="seconds"),
                **({"runs": history} if history else {}),
            },
        )

        def worker(known: KnownScore) -> CarIdentifier:
            """The archive's own code, self-check first, with that operating point."""
            trial = replace(manifest, temperature=known.temperature, known=known)
            trial.write(content / "model.json")
            return CarIdentifier.from_directory(content)

        known = fit_closer_looks(worker(known), val.samples, backgrounds, precision)
        identifier = worker(known)
        scores = score(identifier, val, photos)
        exact = float_logits(model, pixels)
        measured = _metrics(built.precision, exact, logits, truth, val.labels, scores)
        measured["known_scores"] = compared
        if other_backgrounds := photos.others("not_cars", "measure"):
            measured["scenes"] = score_scenes(identifier, val.samples, other_backgrounds)
        halves = cross_fitted(worker, known.name, logits, val.samples, backgrounds, precision)
        measured["cross_fitted"] = {name: halves[name] for name in measured["honesty"] if halves}
        manifest = replace(manifest, known=known, metrics=measured)
        manifest.write(content / "model.json")
        package(
            content, built.model_file, version, out, device="gpu" if engine == "torch" else "cpu"
        )
    card = model_card(manifest, precision=precision, keep_cars=keep_cars, recipe=recipe_text)
    out.with_suffix(".md").write_text(card, encoding="utf-8")
    _print(manifest, out)
    if few := few_identified(manifest, precision):
        print(f"warning: {few}")


@dataclass(frozen=True, slots=True)
class _Built:
    """The engine that the worker will run, its model's file, and what it computes in."""

    engine: Engine
    model_file: str
    precision: str


def _write_model(
    engine: EngineName,
    model: CarClassifier,
    content: Path,
    samples: Sequence[Sample],
    calibration_photos: int,
) -> _Built:
    """Write the engine's files and load it from them."""
    if engine == "torch":
        write_torch(model.network, model.preprocessing, content)
        running = TorchEngine(content / "model.pt2")
        return _Built(running, "model.pt2", running.precision)
    chosen = np.random.default_rng(0).permutation(len(samples))[:calibration_photos]
    print(f"quantising {model.hparams['network']} with {len(chosen)} training photos", flush=True)
    pixels = _pixels([samples[i] for i in chosen], model.preprocessing)
    write_openvino(model.network, model.preprocessing, content, pixels)
    return _Built(OpenVinoEngine(content / "model.xml"), "model.xml", "int8")


def _write_car_finders(
    engine: Engine,
    cars: NDArray[np.float32],
    backgrounds: Sequence[Path],
    training: Sequence[Sample],
    preprocessing: Preprocessing,
    keep_cars: float,
    scenes: int,
    content: Path,
) -> None:
    """Fit and write what says whether there is a car, and where.

    Args:
        engine: that will serve.
        cars: features [N, F] of validation photos.
        backgrounds: photos of anything else.
        training: training photos.
        preprocessing: the network's.
        keep_cars: share of cars that shall be taken for cars.
        scenes: how many to learn from.
        content: folder of the archive's parts.
    """
    others = [Sample(path, 0) for path in backgrounds]
    _, other_features = _run(engine, _pixels(others, preprocessing))
    held_out = cars[1::2] if len(cars) > 1 else cars
    detector = fit_car_detector(cars[::2], other_features, held_out, keep=keep_cars)
    detector.write(content / "car_detector.npz")
    print(f"learning on {scenes} scenes where the car is", flush=True)
    locator = fit_car_locator(engine, preprocessing, training, backgrounds, scenes)
    locator.write(content / "car_locator.npz")


def _metrics(
    precision: str,
    exact: NDArray[np.float32],
    logits: NDArray[np.float32],
    truth: NDArray[np.int64],
    labels: Sequence[CarLabel],
    scores: Mapping[str, Any],
) -> dict[str, Any]:
    """What the manifest records.

    Args:
        precision: what the engine computes in.
        exact: logits [N, C] of the checkpoint's float network.
        logits: [N, C], of the engine; both of whole photos.
        truth: [N], classes.
        labels: all classes.
        scores: of the archive, from `score`: closer looks included.
    """
    before = metrics.accuracies(exact, truth, labels)
    after = metrics.accuracies(logits, truth, labels)
    figures = scores["figures"]
    columns = {precision: after, "as answered": {name: figures[name] for name in before}}
    measured: dict[str, Any] = {}
    if precision == "int8":  # the only one that costs accuracy to speak of
        columns = {"float": before, **columns}
        measured["int8_minus_float_top1"] = after["top1"] - before["top1"]
    return measured | {
        "validation": columns,
        f"{precision}_float_agreement": float((exact.argmax(1) == logits.argmax(1)).mean()),
        "honesty": {name: value for name, value in figures.items() if name not in before},
        "outside": scores["outside"],
    }


def _pixels(samples: Sequence[Sample], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Network input [N, H, W, 3]."""
    return np.stack([preprocessing(load_crop(sample, preprocessing.size)) for sample in samples])


def _data_set(labels: Sequence[CarLabel]) -> str:
    return "Stanford Cars 196" if tuple(labels) == stanford_cars_labels() else "your own"


def _selfcheck_tolerance(engine: EngineName, logits: NDArray[np.float32]) -> float:
    """How far another machine's logits may lie from these; a share of their own spread.

    OpenVINO: another instruction set rounds a little differently (measured: up to 7 % on SSE4.1,
    nothing from AVX2 on). torch: an archive built on a CPU in float32 has to start on a GPU in
    bfloat16 (measured with EfficientNet-Lite0 on 812 photos, in fours: 13 % in the median, 38 % in
    one of a hundred, 45 % at worst). Wrong weights move them by more: a convolution's channels in
    wrong order by 450 %, red and blue swapped by 130 %.
    """
    share = {"openvino": 0.25, "torch": 0.5}[engine]
    return round(share * float(logits.std()), 3)


def _run(
    engine: Engine, pixels: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logits [N, C] and features [N, F] of the engine that the worker will run."""
    outputs = [engine.run(pixels[i : i + 8]) for i in range(0, len(pixels), 8)]
    return (
        np.concatenate([output.logits for output in outputs]),
        np.concatenate([output.features for output in outputs]),
    )


def _print(manifest: ModelManifest, out: Path) -> None:
    print_figures(f"{manifest.network} on validation photos", manifest.metrics["validation"])
    if "int8_minus_float_top1" in manifest.metrics:
        difference = 100 * manifest.metrics["int8_minus_float_top1"]
        print(f"int8 - float = {difference:+.2f} points of top-1")
    print(f"{out}: version {manifest.version}, {out.stat().st_size / 1e6:.1f} MB")
