"""FreezeStages: frozen stages stay as they are, to the last batch statistic, until they are due."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from jsonargparse import ArgumentParser
from pytorch_lightning.callbacks import ModelCheckpoint
from tiny_network import STAGES, tiny_model
from toy_training import toy_data, toy_trainer

from lightning_train.callbacks import FreezeStages
from lightning_train.classifier import CarClassifier

ROOT = Path(__file__).resolve().parent.parent
HEAD = "head"


class Changes(pl.Callback):
    """Which parts of the network an epoch has changed: numbers of stages, and the head.

    And of which stages it has moved the batch statistics.
    """

    def __init__(self) -> None:
        self.epochs: list[set[str]] = []
        self.statistics: list[set[str]] = []
        self.before: dict[str, torch.Tensor] = {}

    def on_train_epoch_start(self, trainer: pl.Trainer, model: CarClassifier) -> None:
        self.before = {name: t.clone() for name, t in model.network.state_dict().items()}

    def on_train_epoch_end(self, trainer: pl.Trainer, model: CarClassifier) -> None:
        after = model.network.state_dict()
        changed = {name for name in after if not torch.equal(after[name], self.before[name])}
        moved = {name for name in changed if name.endswith("running_mean")}
        for names, parts in ((changed, self.epochs), (moved, self.statistics)):
            parts.append({name.removeprefix("stages.").partition(".")[0] for name in names})


def run(
    root: Path, folder: Path, epochs: int, *callbacks: pl.Callback, ckpt_path: Path | None = None
) -> CarClassifier:
    pl.seed_everything(0, verbose=False)
    model = tiny_model()
    trainer = toy_trainer(folder, epochs, *callbacks)
    # Validated twice an epoch: validation puts the network into another mode and back.
    trainer.val_check_interval = 0.5
    trainer.fit(model, toy_data(root), ckpt_path=ckpt_path)
    return model


@pytest.mark.parametrize(
    ("frozen", "trained"),
    [(0, {"0", "1", "2", "3", HEAD}), (2, {"2", "3", HEAD}), (4, {HEAD}), ("all", {HEAD})],
)
def test_frozen_stages_stay_as_they_are(
    frozen: int, trained: set[str], toy_root: Path, tmp_path: Path
) -> None:
    changes = Changes()
    run(toy_root, tmp_path, 2, FreezeStages(frozen), changes)
    assert changes.epochs == [trained, trained]


def test_the_head_learns_first_then_all_layers(toy_root: Path, tmp_path: Path) -> None:
    changes = Changes()
    run(toy_root, tmp_path, 4, FreezeStages({0: "all", 1: 2, 3: 0}), changes)
    assert changes.epochs == [
        {HEAD}, {"2", "3", HEAD}, {"2", "3", HEAD}, {"0", "1", "2", "3", HEAD},
    ]  # fmt: skip
    assert changes.statistics == [set(), {"2", "3"}, {"2", "3"}, {"0", "1", "2", "3"}]


def test_the_optimizer_knows_frozen_parameters_from_the_start(
    toy_root: Path, tmp_path: Path
) -> None:
    class Groups(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, model: CarClassifier) -> None:
            (optimizer,) = trainer.optimizers
            known = {id(p) for group in optimizer.param_groups for p in group["params"]}
            assert known == {id(p) for p in model.network.parameters()}
            self.checked = True

    groups = Groups()
    run(toy_root, tmp_path, 1, FreezeStages({0: "all", 1: 0}), groups)
    assert groups.checked


# Step 8 is in the epoch that thaws half of the network, step 12 at the end of it.
@pytest.mark.parametrize("step", [4, 8, 12])
def test_a_resumed_run_freezes_what_the_uninterrupted_one_would(
    step: int, toy_root: Path, tmp_path: Path
) -> None:
    saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=4, save_top_k=-1)
    stages = {0: "all", 1: 2, 2: 0}
    whole = run(toy_root, tmp_path, 3, FreezeStages(stages), saver).network.state_dict()
    cut = tmp_path / f"step={step}.ckpt"
    resumed = run(toy_root, tmp_path, 3, FreezeStages(stages), ckpt_path=cut).network.state_dict()
    different = {name for name in whole if not torch.equal(whole[name], resumed[name])}
    assert not different


@pytest.mark.parametrize("stages", [STAGES + 1, -1, {0: 2, 3: 9}])
def test_a_network_without_that_many_stages_is_named(
    stages: int | dict[int, int], toy_root: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="this network has 4"):
        run(toy_root, tmp_path, 1, FreezeStages(stages))


def test_a_schedule_begins_with_epoch_0() -> None:
    with pytest.raises(ValueError, match="epoch 0"):
        FreezeStages({1: 0})


def test_a_configuration_may_say_all(tmp_path: Path) -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(FreezeStages, "freeze")
    (tmp_path / "config.yaml").write_text("freeze: {stages: {0: all, 2: 3, 4: 0}}")
    settings = parser.parse_path(tmp_path / "config.yaml")
    assert settings.freeze.stages == {0: "all", 2: 3, 4: 0}


def under_ddp(root: Path, out: Path, stages: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "OMP_NUM_THREADS": "1",
    }
    script = str(ROOT / "tests/ddp_callbacks_run.py")
    return subprocess.run(
        [sys.executable, script, str(root), str(out), "ddp", stages],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip


# What is thawed under DDP is tested in test_averaging.py, with two processes.
def test_ddp_that_cannot_thaw_says_which_strategy_can(toy_root: Path, tmp_path: Path) -> None:
    done = under_ddp(toy_root, tmp_path, "[4, 0]")
    assert done.returncode != 0
    (message,) = [line for line in done.stderr.splitlines() if "ValueError: thawing" in line]
    assert "--trainer.strategy ddp_find_unused_parameters_true" in message


def test_ddp_needs_nothing_to_freeze_for_good(toy_root: Path, tmp_path: Path) -> None:
    done = under_ddp(toy_root, tmp_path, "2")
    assert done.returncode == 0, done.stderr[-3000:]
