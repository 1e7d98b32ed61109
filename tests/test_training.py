"""A real fit: it learns, it cycles, it resumes to the step, it starts from given weights."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
from toy_cars import TOY_CLASSES, write_class_folders
from toy_training import toy_data, toy_model, toy_trainer

from lightning_train.callbacks import (
    ColorAugmentation,
    GeometricAugmentation,
    ZoomAugmentation,
)
from lightning_train.data import CarDataModule

ROOT = Path(__file__).resolve().parent.parent


def test_a_network_learns_to_tell_the_toy_cars_apart(toy_root: Path, tmp_path: Path) -> None:
    pl.seed_everything(0, verbose=False)
    trainer = toy_trainer(
        tmp_path, 4, ZoomAugmentation({0: 32}), GeometricAugmentation(), ColorAugmentation(hue=0)
    )
    trainer.fit(toy_model(), toy_data(toy_root))
    assert trainer.callback_metrics["val/top1"] == 1.0


def test_fewer_photos_than_a_batch_are_one_batch(toy_root: Path, tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path, 1)
    trainer.fit(toy_model(), CarDataModule(str(toy_root), size=32, batch_size=1000))
    assert trainer.global_step == 1


def test_a_test_split_that_lacks_a_class_keeps_the_class_ids(tmp_path: Path) -> None:
    write_class_folders(tmp_path, per_class=4)
    write_class_folders(tmp_path, per_class=4, split="test")
    shutil.rmtree(tmp_path / "test" / TOY_CLASSES[0])
    module = toy_data(tmp_path)
    module.setup("test")
    labels = {int(label) for batch in module.test_dataloader() for label in batch["label"]}
    assert [module.class_names[label] for label in sorted(labels)] == TOY_CLASSES[1:]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "--data.root", "nowhere", "--model.network", "resnet18"], "nowhere"),
        (["evaluate", "--archive", "gone.mar", "--data", "nowhere"], "nowhere"),
        (["archive", "--checkpoint", "gone.ckpt", "--version", "1.1", "--data", "."], "gone.ckpt"),
        (["dance"], "usage"),
    ],
)
def test_a_wrong_command_line_is_one_clear_message(arguments: list[str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lightning_train", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
