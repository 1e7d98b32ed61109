"""Evaluate a network in training, on what its data loaders do not bring too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.utilities import rank_zero_warn

from handler.cores import usable_cores
from handler.preprocessing import Preprocessing
from lightning_train.data import CarDataModule, DatasetError, Sample, Split, load_crop
from lightning_train.evaluation import metrics
from lightning_train.evaluation.photo_sets import PhotoSets
from lightning_train.evaluation.result import Evaluation, PhotoScores, Temperature

__all__ = ["evaluate_network", "network_logits", "weights_of"]

_BATCH = 32


def evaluate_network(
    trainer: pl.Trainer,
    model: pl.LightningModule,
    data: CarDataModule,
    split: Split,
    logits: NDArray[np.float32],
    truth: NDArray[np.int64],
    reported_weights: AbstractContextManager[None] | None,
) -> Evaluation:
    """Put what a pass over a split gave together with all that the report wants beside it.

    Args:
        trainer: whose precision is used.
        model: that made the pass.
        data: with the split that was passed over.
        split: which one.
        logits: [N, C], in the order of the split's photos.
        truth: [N], the class ids that the loader gave: checked against the photos'.
        reported_weights: while it is entered the model has the weights that made the pass; None if
            they are gone, and nothing else can be scored.

    Raises:
        ValueError: the loader gave other photos than the split has.
    """
    dataset = data.dataset(split)
    samples = dataset.samples[: len(truth)]  # limit_val_batches leaves out the rest
    if not np.array_equal([sample.class_id for sample in samples], truth):
        raise ValueError(f"the loader's photos are not those of the {split} split in their order")
    outside: dict[str, NDArray[np.float32]] = {}
    temperature = Temperature(
        metrics.fit_temperature(logits, truth), "these very photos, which flatters it a little"
    )
    if reported_weights is not None:
        with reported_weights:
            for name, paths in PhotoSets(data.root, model.hparams["size"]).outside().items():
                photos = [Sample(path, 0) for path in paths]
                outside[name], _ = network_logits(trainer, model, photos)
            if split == "test" and (validation := _photos(data, "val")):
                val_logits, readable = network_logits(trainer, model, validation)
                val_truth = np.array([sample.class_id for sample in readable], dtype=np.int64)
                fitted = metrics.fit_temperature(val_logits, val_truth)
                temperature = Temperature(fitted, "the validation photos")

    def scores(logits: NDArray[np.float32]) -> PhotoScores:
        confidence = metrics.confidences(logits, temperature.value)
        return PhotoScores(logits, {"confidence": confidence, "energy": metrics.energies(logits)})

    return Evaluation(
        labels=dataset.labels,
        samples=samples,
        cars=scores(logits),
        temperature=temperature,
        training=_photos(data, "train"),
        outside={name: scores(found) for name, found in outside.items() if len(found)},
    )


def _photos(data: CarDataModule, split: Split) -> tuple[Sample, ...]:
    """The photos of a split, none if the data set does not have it."""
    try:
        return data.dataset(split).samples
    except DatasetError:
        return ()


def network_logits(
    trainer: pl.Trainer, model: pl.LightningModule, samples: Sequence[Sample]
) -> tuple[NDArray[np.float32], list[Sample]]:
    """Logits as validation computes them: same pixels, same device, same precision.

    Args:
        trainer: whose precision is used.
        model: with hyperparameters `size`, `mean` and `std`; its training mode is left as it is.
        samples: photos of any number; those that cannot be read are named in a warning.

    Returns:
        Logits [N, C] of the N readable photos, and those photos.
    """
    preprocessing = Preprocessing(
        model.hparams["size"], tuple(model.hparams["mean"]), tuple(model.hparams["std"])
    )
    problems: list[str] = []

    def pixels(sample: Sample) -> NDArray[np.uint8] | None:
        try:
            return preprocessing(load_crop(sample, preprocessing.size))
        except DatasetError as error:
            problems.append(str(error))
            return None

    readable: list[Sample] = []
    logits = [np.empty((0, len(model.hparams["class_names"])), dtype=np.float32)]
    with (
        _evaluating(model),
        torch.inference_mode(),
        trainer.precision_plugin.forward_context(),
        ThreadPoolExecutor(usable_cores()) as pool,  # Pillow decodes outside the GIL
    ):
        for start in range(0, len(samples), _BATCH):
            batch = samples[start : start + _BATCH]
            decoded = list(pool.map(pixels, batch))
            readable += [s for s, image in zip(batch, decoded, strict=True) if image is not None]
            images = [image for image in decoded if image is not None]
            if images:
                batch_pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
                logits.append(model(batch_pixels.to(model.device)).float().cpu().numpy())
    if problems:
        rank_zero_warn(f"{len(problems)} photos left out of the report, the first: {problems[0]}")
    return np.concatenate(logits), readable


@contextmanager
def _evaluating(model: pl.LightningModule) -> Iterator[None]:
    """Evaluation mode; afterwards every part is as it was, frozen parts too."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def weights_of(checkpoint: Path, trainer: pl.Trainer, model: pl.LightningModule) -> Iterator[None]:
    """For a while, the model has the weights of a checkpoint."""
    own = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(trainer.strategy.load_checkpoint(checkpoint)["state_dict"])
    try:
        yield
    finally:
        model.load_state_dict(own)
