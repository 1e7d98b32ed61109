"""Training for so many minutes: as many epochs as fit, so that the last cycle ends in time.

On a rented GPU the time is given, and a run that is cut in the middle of its cycle is worth little.
So a few steps are timed at every photo size of the configuration, and `fit` is called with the
largest `max_epochs` that leaves room. Lengths in the configuration should be parts of the run:
`CyclicSchedule(cycles=…)`, and `ZoomAugmentation`'s sizes by fractions.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import shlex
import time
import warnings
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import torch
from pytorch_lightning.callbacks import (
    Callback,
    LearningRateMonitor,
    ModelCheckpoint,
    ModelSummary,
    ProgressBar,
)

from lightning_train.callbacks import ExportWeights, RunReport, ZoomAugmentation
from lightning_train.callbacks.clock import StepClock
from lightning_train.cli import CarCLI
from lightning_train.config_errors import SettingsError

__all__ = ["Pace", "fit_within", "measure_pace", "whole_epochs"]

_LONG = 10_000  # epochs, while sizes are looked for: every part of the run is there
_VALIDATIONS = range(6, 13)
_NOT_TIMED = (ExportWeights, LearningRateMonitor, ModelSummary, ProgressBar, RunReport)


@dataclass(frozen=True, slots=True)
class Pace:
    """What a configuration costs on this machine.

    Attributes:
        epoch: seconds of training in an epoch, by photo size.
        photos: photos a second, by photo size.
        validation: seconds of a validation and the checkpoints after it.
        zoom: says which epoch has which size; None if all have the same.
    """

    epoch: Mapping[int, float]
    photos: Mapping[int, float]
    validation: float
    zoom: ZoomAugmentation | None = None

    def seconds(self, epochs: int, validations: int) -> float:
        """What so many epochs and validations take."""
        same = [next(iter(self.epoch))] * epochs
        sizes = self.zoom.sizes_of(epochs) if self.zoom else same
        return sum(self.epoch[size] for size in sizes) + validations * self.validation


def measure_pace(settings: Sequence[str], steps: int = 20, warmup: int = 10) -> Pace:
    """Time some steps of `fit` at every photo size, and a validation.

    Args:
        settings: what `fit` takes.
        steps: that are timed.
        warmup: before them: a compiled network is compiled in the first.
    """
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the run itself will give them
        cli = CarCLI(["fit", *settings], run=False)
        zoom = _zoom(cli.trainer.callbacks)  # type: ignore[attr-defined]
        size = int(cli.model.hparams["size"])
        # Stages only ever thaw, so the last epoch of a size is the dearest.
        ends = (
            {size: epoch for epoch, size in enumerate(zoom.sizes_of(_LONG))} if zoom else {size: 0}
        )
        timed = {
            size: _time(cli, StepClock(warmup, steps, epoch), folder)
            for size, epoch in ends.items()
        }
        # Not the first one, in which cuDNN tries its algorithms.
        second = StepClock(1, 3, max(ends.values()))
        _time(cli, second, folder, limit_train_batches=2, limit_val_batches=None)
    return Pace(
        {size: clock.seconds / steps * clock.batches for size, clock in timed.items()},
        {size: clock.shape[0] * steps / clock.seconds for size, clock in timed.items()},
        second.seconds_after,
        zoom,
    )


def _time(cli: CarCLI, clock: StepClock, folder: str, **settings: Any) -> StepClock:
    """Let a clock run in a `fit` as configured; it validates only if the settings say so."""
    changes = {
        "max_epochs": _LONG,
        "max_steps": -1,
        "default_root_dir": folder,
        "logger": False,
        "num_sanity_val_steps": 0,
        "check_val_every_n_epoch": 1,
        "limit_val_batches": 0,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = cli.instantiate_trainer(**{**changes, **settings})
    unwanted = _NOT_TIMED if "limit_val_batches" in settings else (*_NOT_TIMED, ModelCheckpoint)
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    callbacks[:] = [clock, *(c for c in callbacks if not isinstance(c, unwanted))]
    trainer.fit(cli.model, datamodule=cli.datamodule)
    return clock


def whole_epochs(seconds: float, pace: Pace) -> tuple[int, int]:
    """The most epochs that fit, and how many of them lie between validations.

    There are six to twelve validations, the number that loses least: each costs a pass and its
    checkpoints, and the last epoch shall have one. Fewer only where there is no time for six.

    Args:
        seconds: for training and validation.
        pace: of this configuration.

    Returns:
        Epochs, a multiple of the second number; 0 and 1 if there is not the time for one.
    """
    found = []
    for validations in range(1, 13):
        most = math.ceil(seconds / validations / min(pace.epoch.values()))
        every = bisect_right(
            range(1, most + 1),
            seconds,
            key=lambda n: pace.seconds(n * validations, validations),
        )
        found.append((min(validations, 6), every * validations, every))
    _, epochs, every = max((one for one in found if one[2]), default=(0, 0, 1))
    return epochs, every


def fit_within(arguments: Sequence[str]) -> None:
    """The command: measure, then `fit` with as many epochs as there is time for.

    Args:
        arguments: `fit-within`, its options, and what `fit` takes.

    Raises:
        SettingsError: the time does not suffice, or a run is to be resumed.
    """
    start = time.monotonic()
    parser = _parser(arguments[0])
    try:
        options, settings = parser.parse_known_args(list(arguments[1:]))
    except argparse.ArgumentError as error:
        raise SettingsError(str(error)) from None
    if any(setting.startswith("--ckpt_path") for setting in settings):
        raise SettingsError(
            "a run that is resumed keeps its length: use fit, or start a new one from its weights "
            "with --model.weights"
        )
    if options.minutes <= 0 or not 0 <= options.reserve < options.minutes:
        raise SettingsError("--minutes is more than 0, and --reserve 0 or more, but less than it")
    pace = measure_pace(settings)
    print(_described(pace), flush=True)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    seconds = 60 * (options.minutes - options.reserve) - (time.monotonic() - start)
    epochs, every = whole_epochs(seconds, pace)
    if not epochs:
        raise SettingsError(
            f"{options.minutes:g} minutes are too few: {max(seconds, 0) / 60:.1f} are left after "
            "measuring and the reserve, and an epoch takes longer"
        )
    # Should it be slower than it promised, an unfinished cycle is better than nothing at all.
    limit = json.dumps({"seconds": round(seconds + 30 * options.reserve)})
    lengths = {"max_epochs": epochs, "check_val_every_n_epoch": every, "max_time": limit}
    command = ["fit", *settings, *(f"--trainer.{name}={it}" for name, it in lengths.items())]
    print(f"{epochs} epochs in {seconds / 60:.1f} minutes: {shlex.join(command)}", flush=True)
    CarCLI(command)
    print(f"{(time.monotonic() - start) / 60:.1f} of {options.minutes:g} minutes used")


def _parser(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m lightning_train {command}",
        description="Train for so many minutes: as many epochs as fit, the end of the last cycle "
        "included. Takes what fit takes, but for --ckpt_path; see fit --help.",
        epilog="example: python -m lightning_train fit-within --minutes 18 --config "
        "lightning_train/configs/road/2_resnet50.yaml --data.root /path/to/data",
        allow_abbrev=False,
        exit_on_error=False,
    )
    parser.add_argument("--minutes", type=float, required=True, help="for all of it")
    parser.add_argument(
        "--reserve", type=float, default=2.0,
        help="of them, for the start, the report and the weights' export (default: 2)",
    )  # fmt: skip
    return parser


def _zoom(callbacks: Sequence[Callback]) -> ZoomAugmentation | None:
    """What sets the photo size; the last of several has the last word."""
    found = [callback for callback in callbacks if isinstance(callback, ZoomAugmentation)]
    return found[-1] if found else None


def _described(pace: Pace) -> str:
    rows = [
        f"{size} px: {pace.photos[size]:,.0f} photos/s, {seconds:.2f} s an epoch"
        for size, seconds in pace.epoch.items()
    ]
    return "; ".join([*rows, f"a validation {pace.validation:.1f} s"])
