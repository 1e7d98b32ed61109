"""The trained network as float weights, at the end of `fit`."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities import rank_zero_info

from lightning_train.classifier import CarClassifier
from lightning_train.float_weights import refuse_loss, write_weights

__all__ = ["ExportWeights"]


class ExportWeights(Callback):
    """Writes the network's weights as safetensors when `fit` is through.

    Those of the last step (of `EMA`'s average, if there is one), not of the best epoch: at the end
    of a cycle they are as good, and no epoch was chosen on the validation photos. See
    `lightning_train.float_weights` for the files; `model.weights`, `distillation.teachers` and
    `archive --checkpoint` take their folder.

    Args:
        folder: where to; None for `weights` in the run's log folder.
        shard_mb: largest file, in MB.
    """

    def __init__(self, folder: str | None = None, shard_mb: float = 90) -> None:
        self.folder = folder
        self.shard_mb = shard_mb

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a folder that can't be written to before hours are spent.

        Raises:
            ValueError: it holds something else.
        """
        if stage == "fit" and self.folder:
            refuse_loss(Path(self.folder))

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write them, once the average is in the network."""
        if trainer.fast_dev_run or not trainer.is_global_zero:  # type: ignore[attr-defined]
            return
        if not isinstance(pl_module, CarClassifier):
            raise TypeError(f"ExportWeights needs a CarClassifier; got {type(pl_module).__name__}")
        log_folder = Path(trainer.log_dir or trainer.default_root_dir)
        folder = Path(self.folder) if self.folder else log_folder / "weights"
        write_weights(pl_module, folder, self.shard_mb)
        rank_zero_info(f"weights: {folder}")
