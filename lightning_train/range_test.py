"""The learning-rate range test (Smith 2015, arXiv 1506.01186, section 3.3).

One short run with a rate that rises from step to step tells both bounds of a cyclical schedule: the
network begins to learn at the lower, and no longer gains at the upper.
"""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import pytorch_lightning as pl
import yaml
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pytorch_lightning.callbacks import (
    Callback,
    Checkpoint,
    EarlyStopping,
    LearningRateMonitor,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_train.callbacks import EMA, FreezeStages, RunReport
from lightning_train.classifier import CarClassifier
from lightning_train.data import Batch, CarDataModule
from lightning_train.evaluation.plots import STYLE

__all__ = ["Bounds", "RangeCurve", "lr_range_test", "propose_bounds", "range_test_trainer"]

_DIVERGED = 4.0  # times the best smoothed loss
_BEGUN, _HALF, _DONE = 0.1, 0.5, 0.9  # parts of the whole fall of the loss
_RAGGED = 4.0  # times the usual scatter
_FLAT = 5.0  # standard errors that a real fall exceeds


@dataclass
class RangeCurve:
    """What a range test saw, step by step.

    Attributes:
        rates: [K], the highest rate of all parameter groups.
        losses: [K], of the batches.
        accuracies: [K], of the batches, 0…1; of mixed photos the main one counts.
        diverged: whether the loss grew out of bounds before the highest rate was reached.
    """

    rates: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    diverged: bool = False


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds of a cyclical schedule.

    Attributes:
        base: where the network begins to learn.
        max: where it no longer gains.
        open_end: the loss was still falling at the highest rate that was tried.
    """

    base: float
    max: float
    open_end: bool


def propose_bounds(curve: RangeCurve) -> Bounds | None:
    """Read the bounds off a curve, or None where the loss has not fallen.

    Smith reads them off the accuracy: the base is where it starts to rise, the maximum where the
    rise slows, becomes ragged or turns. Here the same points are read off the loss, since a batch's
    accuracy comes in steps of 1/N: of the smoothed loss's whole fall, from its mean in the first
    tenth of the steps to its lowest point, the base is where a tenth is done for good and the
    maximum where nine tenths are done, or where from the half on the scatter of the loss has grown
    to four times what it was. By his rule of thumb the base is no more than a third of the maximum.

    A fall of less than five standard errors, or of less than a hundredth, is taken for noise.
    """
    losses = np.array(curve.losses)
    if len(losses) < 20:
        return None
    first = losses[: max(len(losses) // 10, 5)]
    # The explosion at the end shall not reach back through the smoothing.
    losses = np.minimum(losses, first.mean() + 3 * first.std())
    width = _width(len(losses))
    smooth = _smoothed(losses, width)
    lowest = int(smooth.argmin())
    fall = float(first.mean() - smooth[lowest])
    scatter = np.abs(losses - smooth)
    # 1.48 times the median is the standard deviation of a normal distribution; the root is what
    # the mean under a Gaussian window makes of it.
    noise = 1.48 * float(np.median(scatter[: lowest + 1]))
    error = noise / math.sqrt(2 * math.sqrt(math.pi) * width)
    if fall <= max(_FLAT * math.hypot(error, noise / math.sqrt(len(first))), 0.01 * first.mean()):
        return None
    before = first.mean() - smooth[: lowest + 1]
    begun = int(np.flatnonzero(before < max(_BEGUN * fall, 2 * error)).max(initial=0))
    done = int(np.flatnonzero(before >= _DONE * fall).min())
    half = int(np.flatnonzero(before >= _HALF * fall).min())
    usual = max(float(np.median(scatter[: begun + 1])), 0.01 * fall)
    ragged = np.flatnonzero(_smoothed(scatter, 2 * width)[half:done] > _RAGGED * usual)
    if len(ragged):
        done = half + int(ragged[0])
    highest = curve.rates[done]
    open_end = bool(not curve.diverged and lowest >= len(losses) - 1 - 2 * width)
    return Bounds(float(min(curve.rates[begun], highest / 3)), float(highest), open_end)


def _width(steps: int) -> float:
    return max(steps / 40, 2.0)


def _smoothed(values: NDArray[np.float64], width: float) -> NDArray[np.float64]:
    """A moving Gaussian mean that looks both ways, `width` steps being its standard deviation.

    (A mean of past steps alone would move every point of the curve to higher rates.)
    """
    steps = np.arange(len(values))
    weights = np.exp(-0.5 * ((steps[:, None] - steps) / width) ** 2)
    result: NDArray[np.float64] = weights @ values / weights.sum(axis=1)
    return result


class _RangeTest(Callback):
    """Raises the rate before every step, and keeps what came of it."""

    def __init__(self, rates: NDArray[np.float64]) -> None:
        self.rates = rates
        self.curve = RangeCurve()
        self._scales: list[float] = []
        self._logits: Tensor | None = None
        self._mean, self._best, self._first = 0.0, math.inf, math.inf

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        groups = trainer.optimizers[0].param_groups
        # Discriminative rates keep their ratios; the highest is the one that is meant.
        highest = max(group["lr"] for group in groups)
        self._scales = [group["lr"] / highest for group in groups]
        assert isinstance(pl_module, CarClassifier)  # noqa: S101
        pl_module.network.head.register_forward_hook(self._keep)

    def _keep(self, head: nn.Module, inputs: Any, logits: Tensor) -> None:
        self._logits = logits.detach()

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        rate = float(self.rates[min(trainer.global_step, len(self.rates) - 1)])
        for group, scale in zip(trainer.optimizers[0].param_groups, self._scales, strict=True):
            group["lr"] = rate * scale
        self.curve.rates.append(rate)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        loss = float(outputs["loss"]) * trainer.accumulate_grad_batches
        assert self._logits is not None  # noqa: S101
        labels = batch["target"].argmax(dim=1) if "target" in batch else batch["label"]
        if math.isfinite(loss):
            self.curve.losses.append(loss)
            self.curve.accuracies.append(
                float((self._logits.argmax(dim=1) == labels).float().mean())
            )
        else:
            self.curve.rates.pop()
        if self._has_diverged(loss):
            self.curve.diverged = True
            trainer.should_stop = True

    def _has_diverged(self, loss: float) -> bool:
        if not math.isfinite(loss):
            return True
        steps = len(self.curve.losses)
        self._mean = 0.9 * self._mean + 0.1 * loss
        mean = self._mean / (1 - 0.9**steps)
        if steps == 10:
            self._first = mean
        self._best = min(self._best, mean) if steps >= 10 else self._best
        # Four times nearly nothing is no divergence.
        return mean > _DIVERGED * self._best and mean > self._first


class _Steps:
    """A loader's batches, over and over, for so many steps that Lightning takes for one epoch."""

    def __init__(self, loader: DataLoader[Batch], steps: int) -> None:
        self.loader, self.steps = loader, steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        for epoch in itertools.count():
            getattr(self.loader.sampler, "set_epoch", int)(epoch)
            yield from self.loader


class _RangeData(pl.LightningDataModule):
    def __init__(self, data: CarDataModule, steps: int) -> None:
        super().__init__()
        self.data, self.steps = data, steps

    def setup(self, stage: str) -> None:
        self.data.trainer = self.trainer
        self.data.setup(stage)

    def train_dataloader(self) -> _Steps:
        return _Steps(self.data.train_dataloader(), self.steps)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self.data.val_dataloader()


def range_test_trainer(settings: Mapping[str, Any]) -> pl.Trainer:
    """A trainer that trains as a configuration says, and keeps, scores and logs nothing.

    What `FreezeStages` freezes at last is frozen from the start: the test is a single epoch, and
    its rates are for the part of the network that most of a run trains.

    Args:
        settings: the configuration's, under `trainer`.
    """
    callbacks = settings.get("callbacks") or []
    callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
    needless = (Checkpoint, EarlyStopping, EMA, LearningRateMonitor, RunReport)
    changes = {
        "callbacks": [
            callback.at_last() if isinstance(callback, FreezeStages) else callback
            for callback in callbacks
            if not isinstance(callback, needless)
        ],
        "logger": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "devices": 1,
        "num_nodes": 1,
        "strategy": "auto",
        "max_epochs": 1,
        "max_steps": -1,
        "limit_train_batches": None,
        "limit_val_batches": 0,
        "num_sanity_val_steps": 0,
        "val_check_interval": None,
    }
    return pl.Trainer(**{**settings, **changes})


def lr_range_test(
    model: CarClassifier,
    data: CarDataModule,
    trainer: pl.Trainer,
    min_lr: float = 1e-6,
    max_lr: float = 1.0,
    steps: int = 200,
    mode: Literal["exponential", "linear"] = "exponential",
    out: Path = Path("runs/lr_range_test"),
) -> Bounds | None:
    """Run the test and write `lr_range.csv`, `lr_range.png` and `lr_range.yaml`.

    The last is a second configuration for `fit`, with the proposed bounds; it is not written where
    the loss has not fallen. The network trains for the test only and is thrown away.

    Args:
        model: a fresh one.
        data: its training photos are used, with the trainer's augmentations.
        trainer: see `range_test_trainer`.
        min_lr: the first rate.
        max_lr: the last, if the loss does not diverge before.
        steps: from the first rate to the last.
        mode: how the rate rises.
        out: folder of the results.

    Returns:
        The proposal, or None.

    Raises:
        ValueError: the rates or the steps make no range.
    """
    if not 0 < min_lr < max_lr or steps < 20:
        raise ValueError("a range test needs 0 < min_lr < max_lr and 20 steps or more")
    space = np.geomspace if mode == "exponential" else np.linspace
    test = _RangeTest(space(min_lr, max_lr, steps))
    trainer.callbacks.append(test)  # type: ignore[attr-defined]
    # The schedule would set the rate, and compiling takes longer than the test.
    schedule, model.schedule, model.compiled = model.schedule, None, False
    batches = steps * trainer.accumulate_grad_batches
    trainer.fit(model, datamodule=_RangeData(data, batches))
    curve, bounds = test.curve, propose_bounds(test.curve)

    out.mkdir(parents=True, exist_ok=True)
    smooth = _smoothed(np.array(curve.losses), _width(len(curve.losses)))
    with (out / "lr_range.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["learning_rate", "loss", "smoothed_loss", "accuracy"])
        rows.writerows(zip(curve.rates, curve.losses, smooth, curve.accuracies, strict=True))
    with mpl.rc_context(STYLE):
        draw_range_test(curve, bounds, mode).savefig(out / "lr_range.png")
    overlay = out / "lr_range.yaml"
    if bounds is None:
        overlay.unlink(missing_ok=True)  # of an earlier test
        print(
            f"no proposal: the loss does not fall between {min_lr:g} and {curve.rates[-1]:g}, see "
            f"{out / 'lr_range.png'}. Try other --min_lr and --max_lr, or more --steps"
        )
        return None
    settings: dict[str, Any] = {"optimizer": {"init_args": {"lr": _rounded(bounds.max)}}}
    if hasattr(schedule, "base_lr_fraction"):
        fraction = _rounded(bounds.base / bounds.max)
        settings["schedule"] = {"init_args": {"base_lr_fraction": fraction}}
    overlay.write_text(
        "# Proposed by lr-range-test; a second --config after the one that was tested.\n"
        + yaml.safe_dump({"model": settings}, sort_keys=False),
        encoding="utf-8",
    )
    if bounds.open_end:
        print(f"the loss still falls at {curve.rates[-1]:g}: repeat with a higher --max_lr")
    print(
        f"base {bounds.base:.2g}, maximum {bounds.max:.2g}: see {out / 'lr_range.png'}, and train "
        f"with them by a second --config {overlay}"
    )
    return bounds


def _rounded(value: float) -> float:
    return float(f"{value:.2g}")


def draw_range_test(curve: RangeCurve, bounds: Bounds | None, mode: str) -> Figure:
    """Loss and accuracy against the rate, the proposal marked."""
    figure = Figure(figsize=(8.0, 5.6))
    loss, accuracy = figure.subplots(2, 1, sharex=True, height_ratios=(1.6, 1))
    width = _width(len(curve.losses))
    for axes, values, color in (
        (loss, np.array(curve.losses), "#2563a8"),
        (accuracy, 100 * np.array(curve.accuracies), "#d97925"),
    ):
        axes.plot(curve.rates, values, color=color, alpha=0.25, linewidth=1)
        axes.plot(curve.rates, _smoothed(values, width), color=color, linewidth=2)
        axes.set_xscale("log" if mode == "exponential" else "linear")
        axes.xaxis.set_major_formatter("{x:g}")
        if bounds is not None:
            axes.axvspan(bounds.base, bounds.max, color="#9aa3ad", alpha=0.18, linewidth=0)
            for rate in (bounds.base, bounds.max):
                axes.axvline(rate, color="#56606b", linewidth=1, linestyle="--")
    # An exploding end would flatten everything before it.
    smooth = _smoothed(np.array(curve.losses), width)
    start = smooth[: max(len(smooth) // 10, 1)].mean()
    low, high = min(curve.losses), max(start, float(np.percentile(curve.losses[:-1], 75)))
    loss.set_ylim(low - 0.1 * (high - low), high + 0.35 * (high - low))
    loss.set_title("Training loss" if bounds else "Training loss: no proposal, it does not fall")
    accuracy.set_title("Accuracy on the training batches, %")
    accuracy.set_ylim(bottom=0)
    accuracy.set_xlabel("learning rate (of the group with the highest)")
    if bounds is not None:
        top = loss.get_ylim()[1]
        for rate, text, side in (
            (bounds.base, f"base {bounds.base:.2g} ", "right"),
            (bounds.max, f" maximum {bounds.max:.2g}", "left"),
        ):
            box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
            loss.text(rate, top, text, ha=side, va="top", bbox=box)
    return figure
