"""An average of the weights over the last steps: what is validated and saved."""

from __future__ import annotations

from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn

__all__ = ["EMA"]

_LIVE = "current_model_state"  # as Lightning's own WeightAveraging calls it
_PREFIX = "network."


class EMA(Callback):
    """Exponential moving average of the network's weights and batch statistics, with a warm-up.

    The decay grows with the steps, (1 + n) / (10 + n), up to its limit (as in TensorFlow's
    `ExponentialMovingAverage`): a short run, or the start of a long one, is not held back by a
    memory that is longer than the run.

    The network is validated with the average in its place, and has it when `fit` is through. A
    checkpoint's `state_dict` is the average, so that whatever reads checkpoints gets it; the live
    weights, with which a resumed run goes on, are beside it under "current_model_state".

    (Lightning's `WeightAveraging` deep-copies the whole module. Under LightningCLI the module's
    optimiser factory leads to the CLI, from there to the trainer, and under DDP to the handles of
    the other processes, which can't be copied. Here only the network's tensors are. Under DDP
    without `sync_batchnorm` each process has batch statistics of its own, averaged or not.)

    Args:
        decay: limit of the decay; 0.998 remembers about 500 steps.
    """

    def __init__(self, decay: float = 0.998) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay is at least 0 and below 1, e.g. 0.998; got {decay}")
        self.decay = decay
        self._step = 0  # the optimiser step that the average has reached
        # The network's own tensors by name, their average, and, while the average is in the
        # network, what it has pushed out.
        self._tensors: dict[str, Tensor] = {}
        self._average: dict[str, Tensor] = {}
        self._live: dict[str, Tensor] | None = None
        self._resumed: dict[str, Tensor] | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what would save the wrong weights without a word.

        Raises:
            ValueError: a checkpoint callback saves weights only.
        """
        for callback in trainer.checkpoint_callbacks:
            # Lightning does not ask callbacks what to save then.
            if getattr(callback, "save_weights_only", False):
                raise ValueError(
                    "with save_weights_only: true ModelCheckpoint would save the last weights, not "
                    "EMA's average: take save_weights_only out of the configuration, or EMA"
                )

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on with the live weights; the average is taken up in `on_fit_start`."""
        if trainer.state.fn == TrainerFn.FITTING and _LIVE in checkpoint:
            self._resumed = checkpoint["state_dict"]
            self._step = checkpoint["global_step"]
            pl_module.load_state_dict(checkpoint[_LIVE])

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the average: the network is on its device now, and the same in all processes."""
        self._tensors = cast(nn.Module, pl_module.network).state_dict()
        self._average = {
            # An average in bf16 would not move: a step of it is too small.
            name: tensor.to(torch.float32, copy=True)
            if tensor.is_floating_point()
            else tensor.clone()
            for name, tensor in self._tensors.items()
        }
        if self._resumed is None:
            self._step = trainer.global_step
        else:
            _copy({name: self._resumed[_PREFIX + name] for name in self._average}, self._average)
        self._live = self._resumed = None

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Move the average."""
        self._update(trainer.global_step)

    @torch.no_grad()
    def _update(self, step: int) -> None:
        """Move the average, once an optimiser step: gradients may take several batches."""
        if step == self._step or self._live is not None:
            return
        self._step = step
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        floats, values, counts, counted = [], [], [], []
        for name, average in self._average.items():
            if average.is_floating_point():
                floats.append(average)
                values.append(self._tensors[name].float())
            else:
                counts.append(average)
                counted.append(self._tensors[name])
        torch._foreach_lerp_(floats, values, weight)
        if counts:
            torch._foreach_copy_(counts, counted)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the average into the network."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._swap_in()

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the live weights back."""
        if trainer.state.fn == TrainerFn.FITTING and self._live is not None:
            _copy(self._live, self._tensors)
            self._live = None

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the average in the network."""
        self._swap_in()

    def _swap_in(self) -> None:
        if self._live is None:
            self._live = {name: tensor.clone() for name, tensor in self._tensors.items()}
            _copy(self._average, self._tensors)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the average as the weights, and the live weights beside it."""
        if not self._average:
            return
        # Who saves between the optimiser's step and ours, saves an average of that step too.
        self._update(trainer.global_step)
        live = self._tensors if self._live is None else self._live
        whole = checkpoint["state_dict"]
        checkpoint[_LIVE] = whole | {_PREFIX + name: live[name] for name in live}
        checkpoint["state_dict"] = whole | {
            _PREFIX + name: average for name, average in self._average.items()
        }


@torch.no_grad()
def _copy(source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    for name, tensor in target.items():
        tensor.copy_(source[name])
