"""Learning-rate schedules with lengths in epochs, stepped after every batch.

The optimiser's own learning rate (each parameter group's) is always the maximum, so that schedules
can be exchanged without touching anything else.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import partial
from typing import Any, Literal

from pytorch_lightning.utilities import rank_zero_warn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LambdaLR, LRScheduler, OneCycleLR

__all__ = ["CosineSchedule", "CyclicSchedule", "OneCycleSchedule", "Schedule"]


class Schedule(ABC):
    """How the learning rate moves through a run; no schedule at all is a constant rate."""

    @abstractmethod
    def build(self, optimizer: Optimizer, steps_per_epoch: int, epochs: float) -> LRScheduler:
        """The scheduler of an optimiser whose groups carry their maximum rates.

        Args:
            optimizer: its groups' `lr` are the maxima.
            steps_per_epoch: optimiser steps in an epoch.
            epochs: of the whole run; infinite if it has no end.
        """

    def lengths(self, steps_per_epoch: int, epochs: float) -> dict[str, int]:
        """What a resumed run has to keep: what it is called → how many steps.

        A checkpoint holds the place in the schedule as a number of steps: with other lengths it
        would be another place. Nothing, unless a schedule says so.

        Args:
            steps_per_epoch: as in `build`.
            epochs: likewise.
        """
        return {}


class CyclicSchedule(Schedule):
    """Cyclical learning rates (Smith 2015, arXiv 1506.01186): from base to maximum and back.

    Momentum, where the optimiser has one (SGD), is cycled against the rate; AdamW has none. A run
    of a whole number of cycles ends at a minimum, where the weights are at their best; any other
    length is warned of. With `cycles` instead of lengths it always does, however long it is.

    Args:
        step_size_up: epochs from base to maximum; Smith's half cycle, 2 to 10 epochs. None for 4,
            or what `cycles` makes of it.
        step_size_down: epochs back to the base; None for as many as up.
        mode: `triangular` (constant amplitude), `triangular2` (halved every cycle) or `exp_range`
            (shrunk by `gamma` every epoch).
        gamma: factor per epoch for `exp_range`; applied in every step.
        base_lr_fraction: the base rate as a fraction of the maximum.
        base_momentum: momentum at the maximum rate; the optimiser's own holds at the base.
        cycles: so many over the whole run, instead of lengths in epochs.
        up_fraction: with `cycles`, the part of each in which the rate rises.
    """

    def __init__(
        self,
        step_size_up: float | None = None,
        step_size_down: float | None = None,
        mode: Literal["triangular", "triangular2", "exp_range"] = "triangular2",
        gamma: float = 1.0,
        base_lr_fraction: float = 0.04,
        base_momentum: float = 0.85,
        cycles: int | None = None,
        up_fraction: float = 0.5,
    ) -> None:
        lengths = [size for size in (step_size_up, step_size_down) if size is not None]
        if min(lengths, default=1) <= 0:
            raise ValueError("step_size_up and step_size_down are epochs: give more than 0")
        if cycles is not None and lengths:
            raise ValueError("give step_size_up and step_size_down, or cycles, not both")
        if (cycles is not None and cycles < 1) or not 0 < up_fraction < 1:
            raise ValueError("cycles is 1 or more, and up_fraction a part of one: above 0, below 1")
        self.step_size_up = 4.0 if step_size_up is None else step_size_up
        self.step_size_down = self.step_size_up if step_size_down is None else step_size_down
        self.mode = mode
        self.gamma = gamma
        self.base_lr_fraction = base_lr_fraction
        self.base_momentum = base_momentum
        self.cycles = cycles
        self.up_fraction = up_fraction

    def build(self, optimizer: Optimizer, steps_per_epoch: int, epochs: float) -> CyclicLR:
        """torch's CyclicLR over this run's steps."""
        if self.cycles is None:
            self._warn_of_an_unfinished_cycle(epochs)
        up, down = self._steps(steps_per_epoch, epochs)
        max_lrs = [float(group["lr"]) for group in optimizer.param_groups]
        return CyclicLR(
            optimizer,
            base_lr=[lr * self.base_lr_fraction for lr in max_lrs],
            max_lr=max_lrs,
            step_size_up=up,
            step_size_down=down,
            mode=self.mode,
            gamma=self.gamma ** (1 / steps_per_epoch),
            **_momentum_cycle(optimizer, self.base_momentum),
        )

    def lengths(self, steps_per_epoch: int, epochs: float) -> dict[str, int]:
        """Those of a cycle: with lengths in epochs, a run may go on for longer."""
        up, down = self._steps(steps_per_epoch, epochs)
        return {"steps up": up, "steps down": down}

    def _steps(self, steps_per_epoch: int, epochs: float) -> tuple[int, int]:
        """Steps of the way up and of the way down, 1 or more each."""
        if self.cycles is None:
            up, down = self.step_size_up * steps_per_epoch, self.step_size_down * steps_per_epoch
            return max(round(up), 1), max(round(down), 1)
        cycle = _total_steps(steps_per_epoch, epochs) // self.cycles
        up = min(max(round(cycle * self.up_fraction), 1), max(cycle - 1, 1))
        return up, max(cycle - up, 1)

    def _warn_of_an_unfinished_cycle(self, epochs: float) -> None:
        if math.isinf(epochs):
            return
        cycle = self.step_size_up + self.step_size_down
        cycles = epochs / cycle
        if abs(cycles - round(cycles)) * cycle > 1e-6 or round(cycles) == 0:
            whole = sorted({max(math.floor(cycles), 1) * cycle, math.ceil(cycles) * cycle})
            lengths = " or ".join(f"{length:g}" for length in whole)
            rank_zero_warn(
                f"{epochs:g} epochs are {cycles:.2f} cycles of {cycle:g}: the run ends away from "
                f"the minimum of the rate; --trainer.max_epochs {lengths} ends at it"
            )


class OneCycleSchedule(Schedule):
    """One cycle over the whole run, then far below its start (Smith 2018, arXiv 1803.09820).

    Args:
        warmup_fraction: part of the run in which the rate rises.
        start_lr_fraction: the first rate as a fraction of the maximum.
        end_lr_fraction: the last one.
        anneal: `cos` or `linear`.
        base_momentum: momentum at the maximum rate, for optimisers that have one.
    """

    def __init__(
        self,
        warmup_fraction: float = 0.3,
        start_lr_fraction: float = 0.04,
        end_lr_fraction: float = 0.0001,
        anneal: Literal["cos", "linear"] = "cos",
        base_momentum: float = 0.85,
    ) -> None:
        self.warmup_fraction = warmup_fraction
        self.start_lr_fraction = start_lr_fraction
        self.end_lr_fraction = end_lr_fraction
        self.anneal = anneal
        self.base_momentum = base_momentum

    def build(self, optimizer: Optimizer, steps_per_epoch: int, epochs: float) -> OneCycleLR:
        """torch's OneCycleLR over this run's steps."""
        return OneCycleLR(
            optimizer,
            max_lr=[float(group["lr"]) for group in optimizer.param_groups],
            # Lightning steps once more after the last batch; at least one step up and one down.
            total_steps=max(_total_steps(steps_per_epoch, epochs) + 1, 3),
            pct_start=self.warmup_fraction,
            div_factor=1 / self.start_lr_fraction,
            final_div_factor=self.start_lr_fraction / self.end_lr_fraction,
            anneal_strategy=self.anneal,
            **_momentum_cycle(optimizer, self.base_momentum),
        )

    def lengths(self, steps_per_epoch: int, epochs: float) -> dict[str, int]:
        """That of the run."""
        return {"steps": _total_steps(steps_per_epoch, epochs)}


class CosineSchedule(Schedule):
    """A linear warm-up, then half a cosine to zero (Loshchilov and Hutter, arXiv 1608.03983).

    Args:
        warmup_epochs: epochs in which the rate rises linearly from (nearly) zero.
    """

    def __init__(self, warmup_epochs: float = 1.0) -> None:
        self.warmup_epochs = warmup_epochs

    def build(self, optimizer: Optimizer, steps_per_epoch: int, epochs: float) -> LambdaLR:
        """A factor per step, the same for every parameter group."""
        steps, warmup = self.lengths(steps_per_epoch, epochs).values()
        return LambdaLR(optimizer, partial(_cosine, warmup=warmup, steps=steps))

    def lengths(self, steps_per_epoch: int, epochs: float) -> dict[str, int]:
        """Those of the run and of the warm-up."""
        return {
            "steps": _total_steps(steps_per_epoch, epochs),
            "steps of warm-up": round(self.warmup_epochs * steps_per_epoch),
        }


def _momentum_cycle(optimizer: Optimizer, base_momentum: float) -> dict[str, Any]:
    """torch's settings for momentum that falls from the optimiser's own while the rate rises."""
    momentum = float(optimizer.defaults.get("momentum", 0.0))
    return {
        "cycle_momentum": momentum > 0,
        "base_momentum": min(base_momentum, momentum),
        "max_momentum": momentum,
    }


def _total_steps(steps_per_epoch: int, epochs: float) -> int:
    if math.isinf(epochs):
        raise ValueError("this schedule needs the run's length: set trainer.max_epochs")
    return round(steps_per_epoch * epochs)


def _cosine(step: int, *, warmup: int, steps: int) -> Any:
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = min((step - warmup) / max(steps - warmup, 1), 1.0)
    return (1 + math.cos(math.pi * done)) / 2
