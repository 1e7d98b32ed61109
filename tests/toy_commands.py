"""The trainer's commands as a user starts them, on the toy cars: seconds each on a CPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
    "OMP_NUM_THREADS": "1",
}
ENVIRONMENT.pop("COLUMNS", None)


def start(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    """Start `python -m lightning_train ARGUMENTS`."""
    return subprocess.Popen(
        [sys.executable, "-m", "lightning_train", *map(str, arguments)],
        cwd=cwd, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def run(*arguments: object, cwd: Path, expect: int = 0) -> str:
    """Run it and return what it said, stderr last."""
    process = start(*arguments, cwd=cwd)
    out, err = process.communicate()
    assert process.returncode == expect, out + err
    return out + err


def toy_settings(root: Path, *callbacks: object, **trainer: object) -> dict[str, Any]:
    """A configuration with everything that has a state: average, momentum, schedule, best epoch."""
    return {
        "seed_everything": 1,
        "data": {"root": str(root), "size": 32, "batch_size": 9, "workers": 1},
        "model": {
            "network": "resnet18",
            "weights": None,
            "optimizer": {
                "class_path": "torch.optim.SGD",
                "init_args": {"lr": 0.02, "momentum": 0.9},
            },
            "schedule": {
                "class_path": "lightning_train.schedules.CyclicSchedule",
                "init_args": {"step_size_up": 1.5},
            },
        },
        "trainer": {
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 3,
            "limit_train_batches": 6,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "log_every_n_steps": 1,
            "default_root_dir": "runs",
            "logger": {
                "class_path": "pytorch_lightning.loggers.CSVLogger",
                "init_args": {"save_dir": "runs", "name": "logs"},
            },
            "callbacks": [
                {"class_path": "lightning_train.callbacks.GeometricAugmentation"},
                {"class_path": "lightning_train.callbacks.EMA"},
                {
                    "class_path": "pytorch_lightning.callbacks.ModelCheckpoint",
                    "init_args": {
                        "filename": "best", "monitor": "val/top1", "mode": "max", "save_last": True
                    },
                },
                *callbacks,
            ],
            **trainer,
        },
    }  # fmt: skip


def write_settings(path: Path, settings: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


class SignalAt(pl.Callback):
    """The process gets a signal in the middle of a step: of training, or of validation.

    Step -1 is before the first.
    """

    def __init__(
        self, signum: int, step: int, during: str = "training", epoch: int = 0, rank: int = 0
    ) -> None:
        self.signum, self.step, self.during, self.epoch = signum, step, during, epoch
        self.rank = rank

    def on_fit_start(self, *_: object) -> None:
        if self.step < 0:
            os.kill(os.getpid(), self.signum)

    def on_before_zero_grad(self, trainer: pl.Trainer, *_: object) -> None:
        here = (trainer.global_step, trainer.global_rank) == (self.step, self.rank)
        if self.during == "training" and here:
            os.kill(os.getpid(), self.signum)

    def on_validation_batch_start(self, trainer: pl.Trainer, *arguments: Any) -> None:
        batch_idx = arguments[2]
        here = (trainer.current_epoch, batch_idx) == (self.epoch, self.step)
        if self.during == "validation" and here and not trainer.sanity_checking:
            os.kill(os.getpid(), self.signum)


class PoisonAt(pl.Callback):
    """One batch of pixels (or one weight) that are no numbers; the state before is `before.pt`."""

    def __init__(self, step: int, weights: bool = False, rank: int = 0) -> None:
        self.step, self.weights, self.rank = step, weights, rank

    def on_train_batch_start(self, trainer: pl.Trainer, *arguments: Any) -> None:
        model, batch, _ = arguments
        if (trainer.global_step, trainer.global_rank) == (self.step, self.rank):
            torch.save(model.state_dict(), "before.pt")
            batch["image"] = batch["image"].float() * torch.nan
            if self.weights:
                model.network.head.weight.data[0, 0] = torch.nan


class GroupRates(pl.Callback):
    """Writes the rate of every parameter group in every step to `rates.txt`."""

    def on_before_optimizer_step(self, trainer: pl.Trainer, *_: object) -> None:
        with Path("rates.txt").open("a") as file:
            rates = (group["lr"] for group in trainer.optimizers[0].param_groups)
            file.write(" ".join(map(str, rates)) + "\n")


class Bug(pl.Callback):
    """What a mistake in the code looks like: an error that Python raises by itself."""

    def on_train_start(self, *_: object) -> None:
        int("no number")


SIGINT, SIGTERM = int(signal.SIGINT), int(signal.SIGTERM)
