"""How long training steps take, measured in the training loop itself."""

from __future__ import annotations

import math
import time
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

__all__ = ["StepClock", "now"]


def now(device: torch.device) -> float:
    """Seconds on a clock of no particular zero, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class StepClock(Callback):
    """Times the steps of an epoch of `fit`, after some to warm up, and stops the run.

    List it first, so that all callbacks see the epoch it jumps to.

    Args:
        warmup: steps before the clock runs.
        steps: steps that are timed.
        epoch: the epoch to end in, for its photo size and its frozen stages; where an epoch has too
            few steps, those before it begin. The rate is that of the run's beginning.

    Attributes:
        seconds: for the timed steps.
        seconds_after: from the last step to the end of the run: validation and checkpoints, if the
            trainer has any.
        shape: of the last batch's images, as the network saw them: (N, 3, H, W).
        batches: in an epoch.
    """

    def __init__(self, warmup: int, steps: int, epoch: int = 0) -> None:
        self.warmup, self.steps, self.epoch = warmup, steps, epoch
        self.seconds = self.seconds_after = 0.0
        self.shape: tuple[int, ...] = ()
        self.batches = 0
        self._start = self._end = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Jump to the epoch; the run's end is where this clock says, not where it was set."""
        self.batches = int(trainer.num_training_batches)
        before = math.ceil((self.warmup + self.steps) / self.batches) - 1
        trainer.fit_loop.epoch_progress.current.completed = max(self.epoch - before, 0)
        trainer.fit_loop.max_epochs = -1

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Read the clock after the last step to warm up and after the last step."""
        done = trainer.global_step
        if done == self.warmup:
            self._start = now(pl_module.device)
        elif done == self.warmup + self.steps:
            self._end = now(pl_module.device)
            self.seconds = self._end - self._start
            self.shape = tuple(batch["image"].shape)
            trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read it once more; called before every other callback's `on_train_end`."""
        self.seconds_after = now(pl_module.device) - self._end
