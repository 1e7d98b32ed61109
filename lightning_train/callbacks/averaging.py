"""An average of the weights over the last steps: what is validated and saved."""

from __future__ import annotations

import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor

__all__ = ["EMA"]


class EMA(WeightAveraging):
    """Exponential moving average of weights and batch statistics, with a warm-up.

    The decay grows with the steps, (1 + n) / (10 + n), up to its limit (as in TensorFlow's
    `ExponentialMovingAverage`): a short run, or the start of a long one, is not held back by a
    memory that is longer than the run.

    Args:
        decay: limit of the decay; 0.998 remembers about 500 steps.
    """

    def __init__(self, decay: float = 0.998) -> None:
        @torch.no_grad()
        def average(averaged: list[Tensor], current: list[Tensor], steps: Tensor | int) -> None:
            n = int(steps)
            weight = 1 - min(decay, (1 + n) / (10 + n))
            for mean, value in zip(averaged, current, strict=True):
                if mean.is_floating_point():
                    mean.lerp_(value.to(mean.dtype), weight)
                else:
                    mean.copy_(value)

        super().__init__(use_buffers=True, multi_avg_fn=average)
