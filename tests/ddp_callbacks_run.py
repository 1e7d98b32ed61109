"""A toy run that freezes and averages under DDP: test_averaging.py, test_freezing.py.

Arguments: the data set's root, a folder for what came of it, a strategy of Lightning, and the
stages to freeze as JSON: a number, or a number for each epoch.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import lightning_train  # noqa: F401  (before pytorch_lightning: torchvision_compat)

# isort: split

import pytorch_lightning as pl
import torch
from tiny_network import tiny_model
from toy_training import toy_data

from lightning_train.callbacks import EMA, FreezeStages


def main(root: Path, out: Path, strategy: str, stages: int | list[int]) -> None:
    """Train two epochs and write what came of it."""
    pl.seed_everything(0, verbose=False)
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        devices=int(os.environ.get("WORLD_SIZE", "1")),
        strategy=strategy,
        callbacks=[
            FreezeStages(stages if isinstance(stages, int) else dict(enumerate(stages))),
            EMA(),
        ],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=out,
    )
    model = tiny_model()
    start = model.network.stages[0][0].weight.detach().clone()
    trainer.fit(model, toy_data(root, batch_size=8))
    trainer.save_checkpoint(out / "end.ckpt")
    # After `fit` the network has the average.
    state = {"start": start, "average": dict(model.network.named_parameters())}
    torch.save(state, out / f"process{trainer.global_rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4]))
