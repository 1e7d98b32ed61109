"""One toy run, alone or as one of several processes started by torchrun: test_distributed.py."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import lightning_train  # noqa: F401  (before pytorch_lightning: torchvision_compat)

# isort: split

import pytorch_lightning as pl
import torch
from torch import nn
from toy_training import toy_data, toy_model

GLOBAL_BATCH = 8  # two processes take four photos each


class Losses(pl.Callback):
    """The loss of every step, averaged over the processes."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, model: pl.LightningModule, outputs: dict, *_: object
    ) -> None:
        loss = outputs["loss"].detach().clone()
        self.values.append(float(trainer.strategy.reduce(loss, reduce_op="mean")))


def without_batch_statistics(module: nn.Module) -> None:
    """Replace BatchNorm, whose statistics are those of a process's own part of the batch."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.GroupNorm(4, child.num_features))
        else:
            without_batch_statistics(child)


def main(root: Path, out: Path) -> None:
    """Train three epochs and write what came of it."""
    pl.seed_everything(0, verbose=False)
    model = toy_model()
    without_batch_statistics(model.network)
    losses = Losses()
    world = int(os.environ.get("WORLD_SIZE", "1"))
    trainer = pl.Trainer(
        max_epochs=3,
        accelerator="cpu",
        precision="64-true",  # the sum over two halves rounds otherwise, and training magnifies it
        devices=world,
        strategy=pl.strategies.DDPStrategy(process_group_backend="gloo") if world > 1 else "auto",
        callbacks=[losses],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=out.parent,
    )
    data = toy_data(root, batch_size=GLOBAL_BATCH)
    trainer.fit(model, data)
    figures = {k: float(v) for k, v in trainer.callback_metrics.items()}
    if trainer.is_global_zero:
        torch.save(model.network.state_dict(), out)
        result = {"losses": losses.values, "figures": figures, "world": trainer.world_size}
        out.with_suffix(".json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
