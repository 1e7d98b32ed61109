"""A small real training run on the toy cars: seconds on a CPU."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl
import torch
from toy_cars import TOY_CLASSES

from lightning_train.classifier import CarClassifier
from lightning_train.data import CarDataModule
from lightning_train.schedules import CyclicSchedule


def toy_data(root: Path, batch_size: int = 9) -> CarDataModule:
    return CarDataModule(str(root), size=32, batch_size=batch_size)


def toy_model(**changes: object) -> CarClassifier:
    arguments: dict[str, object] = {
        "network": "resnet18",
        "class_names": TOY_CLASSES,
        "size": 32,
        "weights": None,
        "optimizer": lambda params: torch.optim.AdamW(params, lr=2e-3),
        "schedule": CyclicSchedule(step_size_up=1, mode="triangular", base_lr_fraction=0.1),
        "dropout": 0.0,
    }
    return CarClassifier(**(arguments | changes))  # type: ignore[arg-type]


def toy_trainer(folder: Path, epochs: int, *callbacks: pl.Callback) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(c, pl.callbacks.ModelCheckpoint) for c in callbacks),
        default_root_dir=folder,
    )
