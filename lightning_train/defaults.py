"""What every run has, so that a configuration says only what is its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.callbacks import (
    Callback,
    LearningRateMonitor,
    ModelCheckpoint,
    ProgressBar,
    RichProgressBar,
)
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from pytorch_lightning.plugins import CheckpointIO

from lightning_train.callbacks import CleanExit, RunRecord, RunReport, StopOnNonFiniteLoss
from lightning_train.callbacks.failures import AtomicCheckpointIO, LastCheckpoint

__all__ = ["with_defaults"]


def with_defaults(
    settings: Mapping[str, Any], resume_command: Callable[[str], str]
) -> dict[str, Any]:
    """A trainer's settings, with the callbacks, loggers and plugins that every run has.

    Args:
        settings: what they switch off, or bring themselves, is not added.
        resume_command: what to type to go on from a checkpoint of this run.
    """
    callbacks = _list(settings.get("callbacks"))
    wanted = [*_callbacks(settings), StopOnNonFiniteLoss(), CleanExit(resume_command)]
    added = [one for one in wanted if not any(_same(one, other) for other in callbacks)]
    if settings.get("enable_checkpointing") is not False:
        added.append(LastCheckpoint())
    plugins = _list(settings.get("plugins"))
    if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        plugins.append(AtomicCheckpointIO())
    return {
        **settings,
        "callbacks": callbacks + added,
        "logger": _loggers(settings),
        "plugins": plugins,
    }


def _list(value: Any) -> list[Any]:
    """Lightning takes none, one or several."""
    if value is None:
        return []
    return list(value) if isinstance(value, Sequence) else [value]


def _callbacks(settings: Mapping[str, Any]) -> list[Callback]:
    """A report, a record, a checkpoint of the best epoch, rates in the log, a progress bar."""
    wanted: list[Callback] = [RunReport()]
    if settings.get("enable_checkpointing") is not False:
        wanted.append(ModelCheckpoint(filename="best", monitor="val/top1", mode="max"))
    if settings.get("logger") is not False:
        wanted += [LearningRateMonitor(logging_interval="step"), RunRecord()]
    if settings.get("enable_progress_bar") is not False:
        wanted.append(RichProgressBar())
    return wanted


def _same(one: Callback, other: Callback) -> bool:
    """Whether two callbacks are for the same thing."""
    kind = ProgressBar if isinstance(one, ProgressBar) else type(one)
    return isinstance(other, kind)


def _loggers(settings: Mapping[str, Any]) -> Any:
    """The loggers that are named, or CSV and TensorBoard in one folder, ROOT/logs/version_N."""
    named = settings.get("logger")
    if named not in (None, True):
        return named
    root = Path(settings.get("default_root_dir") or ".")
    table = CSVLogger(root, name="logs")
    loggers: list[Logger] = [table, TensorBoardLogger(root, name="logs", version=table.version)]
    return loggers
