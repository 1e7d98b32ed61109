"""Train the head first: pretrained stages stay frozen, all the time or until an epoch."""

from __future__ import annotations

from typing import Literal

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch.nn.parallel import DistributedDataParallel

from lightning_train.networks import CarNetwork

__all__ = ["FreezeStages"]

Count = int | Literal["all"]


class FreezeStages(Callback):
    """Freeze the first stages of the network, batch statistics included, and thaw them again.

    Edges and textures serve cars as they served ImageNet, and the early stages, with their large
    maps, cost most of a training step on a CPU. A new head's first, random gradients would spoil
    pretrained weights, so the head may learn alone at first (gradual unfreezing, Howard and Ruder
    2018, arXiv 1801.06146).

    Frozen parameters are in the optimiser from the start: the learning rate's cycle knows all
    groups, and a resumed run finds them again. They get no gradient, so no momentum and no weight
    decay moves them.

    Args:
        stages: how many are frozen, counted from the photo's side ("all": the whole trunk, only the
            head learns), for good, or by the epoch from which it holds:
            {0: all, 1: 3, 4: 0}. Networks differ: a ResNet has 5 stages, an EfficientNet-Lite0 18.
    """

    def __init__(self, stages: Count | dict[int, Count]) -> None:
        schedule = dict(sorted(stages.items())) if isinstance(stages, dict) else {0: stages}
        if 0 not in schedule:
            raise ValueError(f"stages needs an entry for epoch 0, e.g. {{0: all, 2: 0}}: {stages}")
        self.stages = schedule

    def at_last(self) -> FreezeStages:
        """What the last entry says, from the start and for good."""
        return FreezeStages([*self.stages.values()][-1])

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check the counts against the network; freeze what is frozen for good.

        Raises:
            ValueError: the network has fewer stages.
        """
        network = _network(pl_module)
        for count in self.stages.values():
            if count != "all" and not 0 <= count <= len(network.stages):
                raise ValueError(
                    f"there are no {count} stages to freeze: this network has "
                    f"{len(network.stages)} (and its head)"
                )
        # DDP leaves out what is frozen before it wraps the network. What is thawed later must not
        # be left out: it would never be the same in all processes again.
        if stage == "fit" and len(set(self.stages.values())) == 1:
            for number, module in enumerate(network.stages):
                module.requires_grad_(number >= self._frozen(network, epoch=0))

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse a DDP that would wait for the gradients of frozen stages.

        Raises:
            ValueError: stages are thawed under DDP that looks for no unused parameters.
        """
        model = trainer.model
        if (
            len(set(self.stages.values())) > 1
            and isinstance(model, DistributedDataParallel)
            and not model.find_unused_parameters
        ):
            raise ValueError(
                "thawing stages on several devices needs --trainer.strategy "
                "ddp_find_unused_parameters_true (or one number for `stages` of FreezeStages)"
            )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Freeze what the epoch is due: Lightning starts no epoch that is resumed midway."""
        self._freeze(_network(pl_module), trainer.current_epoch)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Freeze and thaw what the epoch is due."""
        self._freeze(_network(pl_module), trainer.current_epoch)

    def _frozen(self, network: CarNetwork, epoch: int) -> int:
        count = [count for first, count in self.stages.items() if first <= epoch][-1]
        return len(network.stages) if count == "all" else count

    def _freeze(self, network: CarNetwork, epoch: int) -> None:
        frozen = self._frozen(network, epoch)
        for number, stage in enumerate(network.stages):
            stage.requires_grad_(number >= frozen)
            stage.train(number >= frozen)  # batch statistics move in training mode only


def _network(pl_module: pl.LightningModule) -> CarNetwork:
    network = pl_module.network
    if not isinstance(network, CarNetwork):
        raise TypeError(f"FreezeStages needs a CarNetwork, whose stages it counts; got {network}")
    return network
