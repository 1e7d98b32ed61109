"""A toy fit with RunReport, as one of several processes started by torchrun: test_run_report.py."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import lightning_train  # noqa: F401  (before pytorch_lightning: torchvision_compat)

# isort: split

import pytorch_lightning as pl
from toy_training import toy_data, toy_model

from lightning_train.callbacks.run_report import RunReport


def main(root: Path, out: Path) -> None:
    """Fit two epochs, test, and write what Lightning itself measured."""
    pl.seed_everything(0, verbose=False)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        devices=processes,
        strategy=pl.strategies.DDPStrategy(process_group_backend="gloo"),
        callbacks=[RunReport()],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=out,
    )
    model, data = toy_model(), toy_data(root, batch_size=8)
    trainer.fit(model, data)
    figures = dict(trainer.callback_metrics)
    trainer.test(model, data, verbose=False)
    figures |= trainer.callback_metrics
    if trainer.is_global_zero:
        (out / "lightning.json").write_text(json.dumps({k: float(v) for k, v in figures.items()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
