"""Cyclical learning rates (Smith 2015, arXiv 1506.01186), with lengths in epochs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR

__all__ = ["CyclicSchedule"]


@dataclass(frozen=True)
class CyclicSchedule:
    """CyclicLR between each parameter group's base and maximum rate, stepped every batch.

    The optimiser's learning rate is the maximum; the cycle starts and ends at the base.

    Attributes:
        step_size_up: epochs from base to maximum; Smith's half cycle, 2 to 10 epochs.
        step_size_down: epochs back to the base; None for as many as up. A run of a whole number
            of cycles ends at a minimum, where the weights are at their best.
        mode: `triangular` (constant amplitude), `triangular2` (halved every cycle) or `exp_range`
            (shrunk by `gamma` every step).
        gamma: factor per step for `exp_range`.
        base_lr_fraction: the base rate as a fraction of the maximum.
    """

    step_size_up: float = 4.0
    step_size_down: float | None = None
    mode: Literal["triangular", "triangular2", "exp_range"] = "triangular2"
    gamma: float = 1.0
    base_lr_fraction: float = 0.04

    def build(self, optimizer: Optimizer, steps_per_epoch: int) -> CyclicLR:
        """The scheduler for an optimiser whose groups carry their maximum rates."""
        max_lrs = [float(group["lr"]) for group in optimizer.param_groups]
        down = self.step_size_up if self.step_size_down is None else self.step_size_down
        return CyclicLR(
            optimizer,
            base_lr=[lr * self.base_lr_fraction for lr in max_lrs],
            max_lr=max_lrs,
            step_size_up=max(round(self.step_size_up * steps_per_epoch), 1),
            step_size_down=max(round(down * steps_per_epoch), 1),
            mode=self.mode,
            gamma=self.gamma,
            # Momentum is cycled against the rate where there is one to cycle; AdamW has none.
            cycle_momentum="momentum" in optimizer.defaults,
        )
