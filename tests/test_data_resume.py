"""A run that was cut off within an epoch goes on with the photos that it has not seen yet."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from toy_recorder import Recorder
from toy_training import toy_trainer

from lightning_train.data import CarDataModule

EPOCHS, STEPS = 3, 6  # 54 training photos in batches of 9


class CutOff(pl.Callback):
    """Saves a checkpoint after so many steps and presses Ctrl-C."""

    def __init__(self, after: int, path: Path) -> None:
        self.after = after
        self.path = path

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.after:
            trainer.save_checkpoint(self.path)
            raise KeyboardInterrupt


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Lightning turns Ctrl-C off for the rest of the process once it has been pressed."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


def data(root: Path, **changes: Any) -> CarDataModule:
    return CarDataModule(str(root), **({"size": 32, "batch_size": 9, "seed": 3} | changes))


def whole_run(root: Path, folder: Path, **changes: Any) -> Recorder:
    recorder = Recorder()
    toy_trainer(folder, EPOCHS).fit(recorder, data(root, **changes))
    assert len(recorder.steps) == recorder.expected_steps == EPOCHS * STEPS
    return recorder


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
    "changes",
    [
        {"storage": "memory"},
        {"storage": "stream", "workers": 2},  # the workers have read ahead of the training
        {"storage": "memory", "sampling_power": 1.0},
    ],
    ids=["memory", "stream", "weighted"],
)
# In the first epoch, in the middle of another, before its last batch, after its last.
@pytest.mark.parametrize("after", [2, STEPS + 4, 2 * STEPS - 1, 2 * STEPS])
def test_resumed_within_an_epoch_the_photos_follow_as_if_uninterrupted(
    toy_root: Path, tmp_path: Path, changes: dict[str, Any], after: int
) -> None:
    expected = whole_run(toy_root, tmp_path, **changes).steps
    first = Recorder()
    cut = toy_trainer(tmp_path, EPOCHS, CutOff(after, tmp_path / "cut.ckpt"))
    with pytest.raises(SystemExit):
        cut.fit(first, data(toy_root, **changes))
    second = Recorder()
    resumed = toy_trainer(tmp_path, EPOCHS)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*dataloader is not resumable.*")
        resumed.fit(second, data(toy_root, **changes), ckpt_path=tmp_path / "cut.ckpt")
    assert first.steps == expected[:after]
    assert second.steps == expected[after:]
    assert resumed.global_step == EPOCHS * STEPS


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_before_optimizer_step"])
def test_a_step_that_was_cut_short_is_done_again(toy_root: Path, tmp_path: Path, hook: str) -> None:
    def press(trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == STEPS + 2:
            raise KeyboardInterrupt

    class SaveWhenStopped(pl.Callback):
        def on_exception(self, trainer: pl.Trainer, *_: Any) -> None:
            trainer.save_checkpoint(tmp_path / "cut.ckpt")

    callback = SaveWhenStopped()
    setattr(callback, hook, press)
    expected = whole_run(toy_root, tmp_path).steps
    with pytest.raises(SystemExit):
        toy_trainer(tmp_path, EPOCHS, callback).fit(Recorder(), data(toy_root))
    second = Recorder()
    toy_trainer(tmp_path, EPOCHS).fit(second, data(toy_root), ckpt_path=tmp_path / "cut.ckpt")
    assert second.steps == expected[STEPS + 2 :]


@pytest.mark.usefixtures("interruptible")
def test_a_checkpoint_saved_at_a_validation_within_an_epoch_resumes_as_well(
    toy_root: Path, tmp_path: Path
) -> None:
    class SaveAtValidation(pl.Callback):
        def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            if trainer.global_step == STEPS + 3:
                trainer.save_checkpoint(tmp_path / "cut.ckpt")
                raise KeyboardInterrupt

    def trainer(*callbacks: pl.Callback) -> pl.Trainer:
        made = toy_trainer(tmp_path, EPOCHS, *callbacks)
        made.val_check_interval = 3  # batches: twice an epoch
        return made

    expected = whole_run(toy_root, tmp_path).steps
    with pytest.raises(SystemExit):
        trainer(SaveAtValidation()).fit(Recorder(), data(toy_root))
    second = Recorder()
    trainer().fit(second, data(toy_root), ckpt_path=tmp_path / "cut.ckpt")
    assert second.steps == expected[STEPS + 3 :]


def test_a_checkpoint_of_an_epochs_end_goes_on_with_the_next_epochs_order(
    toy_root: Path, tmp_path: Path
) -> None:
    changes = {"storage": "stream", "workers": 1}
    expected = whole_run(toy_root, tmp_path, **changes).steps
    checkpoint = pl.callbacks.ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    toy_trainer(tmp_path, 2, checkpoint).fit(Recorder(), data(toy_root, **changes))
    second = Recorder()
    toy_trainer(tmp_path, EPOCHS).fit(
        second, data(toy_root, **changes), ckpt_path=tmp_path / "epoch=1.ckpt"
    )
    assert second.steps == expected[2 * STEPS :]


def test_the_order_is_the_seeds_and_no_draw_of_anybody_else_changes_it(
    toy_root: Path, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    one = whole_run(toy_root, tmp_path).steps
    torch.manual_seed(2)
    assert whole_run(toy_root, tmp_path).steps == one
    assert whole_run(toy_root, tmp_path, seed=4).steps != one
    assert one[0][2] != one[STEPS][2]  # another epoch, another order


def test_without_a_seed_of_its_own_the_data_takes_the_runs(
    toy_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "3")  # where seed_everything leaves it
    assert (
        whole_run(toy_root, tmp_path, seed=None).steps
        == whole_run(toy_root, tmp_path, seed=3).steps
    )


def test_reading_photos_draws_nothing_from_the_generator_of_augmentations(toy_root: Path) -> None:
    module = data(toy_root, sampling_power=0.5)
    module.setup("fit")
    before = torch.get_rng_state()
    for loader in (module.train_dataloader(), module.val_dataloader()):
        assert len(list(loader)) == len(loader)
    assert torch.equal(torch.get_rng_state(), before)
