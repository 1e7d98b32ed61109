"""What a run was and came to, in two small files that can be kept where its checkpoints can't."""

from __future__ import annotations

import csv
import json
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.trainer.states import TrainerFn

__all__ = ["RunRecord"]


class RunRecord(Callback):
    """Writes `epochs.csv` and `run.json` to the log folder, anew after every validation.

    `epochs.csv` has a row for each validation: epochs and minutes since the run began, photo size,
    highest rate, losses, top-1 and top-5. `run.json` says on what the run was done, how many photos
    it saw a second, and its last and best validation. Beside the run's `config.yaml` they are what
    the next run learns from; a run that was resumed begins to count anew.
    """

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._start = 0.0
        self._first_step = 0
        self._photos = 0
        self._sizes: list[int] = []
        self._validated = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._start, self._photos = time.monotonic(), 0
        self._rows, self._sizes = [], []
        self._first_step = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count the photos, of all processes."""
        self._photos += len(batch["image"]) * trainer.world_size
        size = int(batch["image"].shape[-1])
        if self._sizes[-1:] != [size]:
            self._sizes.append(size)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember that this epoch has a row."""
        self._validated = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write what there is, of an epoch that was validated."""
        if not self._validated or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._validated = False
        # A run that was stopped within a validation goes on with it: nothing is trained yet.
        # The loss is that of all processes, which agree on it together.
        trained = bool(self._sizes)
        loss = float(pl_module.train_loss.compute()) if trained else None  # type: ignore[operator,union-attr]
        groups = trainer.optimizers[0].param_groups
        self._rows.append(
            {
                "epoch": trainer.current_epoch + 1,
                "minutes": round((time.monotonic() - self._start) / 60, 2),
                "size": self._sizes[-1] if trained else None,
                "rate": float(f"{max(group['lr'] for group in groups):.3g}"),
                "train_loss": None if loss is None else round(loss, 4),
                **{
                    f"val_{name}": round(float(trainer.callback_metrics[f"val/{name}"]), 4)
                    for name in ("loss", "top1", "top5")
                    if f"val/{name}" in trainer.callback_metrics
                },
            }
        )
        folder = Path(trainer.log_dir or trainer.default_root_dir)
        if trainer.is_global_zero and folder.is_dir():
            with (folder / "epochs.csv").open("w", newline="", encoding="utf-8") as file:
                table = csv.DictWriter(file, self._rows[0])
                table.writeheader()
                table.writerows(self._rows)
            said = json.dumps(self._summary(trainer, pl_module), indent=1, ensure_ascii=False)
            (folder / "run.json").write_text(said + "\n", encoding="utf-8")

    def _summary(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        device = pl_module.device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
        seconds = time.monotonic() - self._start
        return {
            "network": pl_module.hparams.get("network"),
            "device": f"{trainer.world_size} × {device.type} ({name})",
            "threads": torch.get_num_threads(),
            "precision": str(trainer.precision),
            "torch": torch.__version__,
            "lightning": version("pytorch-lightning"),
            "python": platform.python_version(),
            "epochs": trainer.current_epoch + 1,
            "steps": trainer.global_step - self._first_step,
            "photos": self._photos,
            "sizes": self._sizes,
            "minutes": round(seconds / 60, 2),
            "photos_per_second": round(self._photos / seconds, 1),
            "last": self._rows[-1],
            "best": max(self._rows, key=lambda row: row.get("val_top1", 0.0)),
        }
