"""Keep the first stages of a pretrained trunk as they are."""

from __future__ import annotations

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from lightning_train.networks import CarNetwork

__all__ = ["FreezeStages"]


class FreezeStages(Callback):
    """Freeze the first stages of the network, batch statistics included.

    Edges and textures serve cars as they served ImageNet, and the early stages, with their large
    maps, cost most of a training step on a CPU.

    Args:
        stages: how many, counted from the photo's side.
    """

    def __init__(self, stages: int) -> None:
        self.stages = stages

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take the stages out of the optimiser's sight before it is made."""
        network = pl_module.network
        if not isinstance(network, CarNetwork) or self.stages >= len(network.stages):
            raise ValueError(f"there are no {self.stages} stages to freeze beside a trained one")
        network.stages[: self.stages].requires_grad_(False)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning puts the whole module into training mode before each epoch."""
        network = pl_module.network
        assert isinstance(network, CarNetwork)  # noqa: S101  (checked in setup)
        network.stages[: self.stages].eval()
