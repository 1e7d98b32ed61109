"""A resumed run keeps the lengths of its schedule, or does not start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from tiny_network import tiny_model
from toy_cars import write_class_folders
from toy_commands import SIGTERM, run, toy_settings, write_settings
from toy_training import toy_data

from lightning_train.cli import main
from lightning_train.config_errors import SettingsError
from lightning_train.schedules import (
    CosineSchedule,
    CyclicSchedule,
    OneCycleSchedule,
    Schedule,
)

OVER_THE_RUN = [OneCycleSchedule(), CyclicSchedule(cycles=1), CosineSchedule()]
NAMES = ["one cycle", "cycles", "cosine"]


class Rates(pl.Callback):
    """Remembers the rate of every optimiser step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, *_: object) -> None:
        self.values.append(trainer.optimizers[0].param_groups[0]["lr"])


class StopAfterTwo(pl.Callback):
    """Ends a run after its second epoch, as a callback may."""

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: object) -> None:
        trainer.should_stop = trainer.current_epoch == 1


def fit(
    root: Path,
    schedule: Schedule,
    *callbacks: pl.Callback,
    folder: Path,
    batch_size: int = 9,
    ckpt_path: Path | None = None,
    **trainer: Any,
) -> tuple[pl.Trainer, list[float]]:
    """A run of the toy cars' 54 training photos, and its rates."""
    seen = Rates()
    runs = pl.Trainer(
        accelerator="cpu", callbacks=[seen, *callbacks], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder, **trainer,
    )  # fmt: skip
    data = toy_data(root, batch_size)
    runs.fit(tiny_model(schedule=schedule), data, ckpt_path=ckpt_path)
    return runs, seen.values


def half_a_run(root: Path, schedule: Schedule, folder: Path, batch_size: int = 9) -> Path:
    """The checkpoint of the first two epochs of four."""
    stop = StopAfterTwo()
    trainer, _ = fit(root, schedule, stop, folder=folder, batch_size=batch_size, max_epochs=4)
    assert trainer.current_epoch == 2
    trainer.save_checkpoint(folder / "half.ckpt")
    return folder / "half.ckpt"


@pytest.mark.parametrize("schedule", OVER_THE_RUN, ids=NAMES)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"max_epochs": 6}, r"\(4 epochs of 6 steps\) → \w+ of .* \(6 epochs of 6 steps\)"),
        ({"max_epochs": 3}, r"→ \w+ of .* \(3 epochs of 6 steps\)"),
        ({"batch_size": 18}, r"→ \w+ of .* \(4 epochs of 3 steps\)"),
    ],
    ids=["longer", "shorter", "batches"],
)
def test_a_schedule_over_the_whole_run_is_gone_on_with_at_its_own_length_only(
    schedule: Schedule, change: dict[str, int], said: str, toy_root: Path, tmp_path: Path
) -> None:
    checkpoint = half_a_run(toy_root, schedule, tmp_path)
    settings: dict[str, Any] = {"folder": tmp_path, "ckpt_path": checkpoint, "max_epochs": 4}
    with pytest.raises(SettingsError, match=said) as refused:
        fit(toy_root, schedule, **settings | change)
    message = str(refused.value)
    assert message.startswith("a resumed run keeps the lengths of its schedule")
    assert "Give the trainer.max_epochs, data.batch_size" in message
    assert message.endswith(f"--model.weights {checkpoint}")
    _, rates = fit(toy_root, schedule, **settings)
    _, whole = fit(toy_root, schedule, folder=tmp_path, max_epochs=4)
    assert rates == pytest.approx(whole[12:])


def test_cycles_with_lengths_of_their_own_go_on_for_as_long_as_is_wanted(
    toy_root: Path, tmp_path: Path
) -> None:
    schedule = CyclicSchedule(1, 2, mode="triangular")
    checkpoint = half_a_run(toy_root, schedule, tmp_path)
    for length in ({"max_epochs": 6}, {"max_epochs": -1, "max_steps": 36}):
        _, rates = fit(toy_root, schedule, folder=tmp_path, ckpt_path=checkpoint, **length)
        _, whole = fit(toy_root, schedule, folder=tmp_path, max_epochs=6)
        assert rates == pytest.approx(whole[12:])
    with pytest.raises(SettingsError, match=r"6 steps up, 12 steps down .*→.* 3 steps up, 6 steps"):
        fit(toy_root, schedule, folder=tmp_path, ckpt_path=checkpoint, max_epochs=6, batch_size=18)


def test_another_schedule_does_not_go_on_where_one_has_come_to(
    toy_root: Path, tmp_path: Path
) -> None:
    checkpoint = half_a_run(toy_root, CosineSchedule(), tmp_path)
    with pytest.raises(SettingsError, match=r"CosineSchedule of 24 steps.* → OneCycleSchedule of"):
        fit(toy_root, OneCycleSchedule(), folder=tmp_path, ckpt_path=checkpoint, max_epochs=4)


@pytest.mark.parametrize("schedule", OVER_THE_RUN, ids=NAMES)
def test_as_many_steps_are_the_same_length_however_they_are_made(
    schedule: Schedule, toy_root: Path, tmp_path: Path
) -> None:
    checkpoint = half_a_run(toy_root, schedule, tmp_path, batch_size=18)
    _, rates = fit(
        toy_root, schedule, folder=tmp_path, ckpt_path=checkpoint, max_epochs=4,
        accumulate_grad_batches=2,
    )  # fmt: skip
    assert len(rates) == 6


def test_a_checkpoint_of_before_the_record_is_taken_as_it_was(
    toy_root: Path, tmp_path: Path
) -> None:
    schedule = CosineSchedule()
    checkpoint = half_a_run(toy_root, schedule, tmp_path)
    content = torch.load(checkpoint, weights_only=True)
    del content["schedule"]
    torch.save(content, checkpoint)
    trainer, _ = fit(toy_root, schedule, folder=tmp_path, ckpt_path=checkpoint, max_epochs=6)
    assert trainer.global_step == 36


def test_an_interrupted_run_goes_on_without_its_time_limit_but_not_for_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `fit-within` starts it: so many epochs, and a limit should they take too long."""
    when = {"class_path": "toy_commands.SignalAt", "init_args": {"signum": SIGTERM, "step": 8}}
    root = write_class_folders(tmp_path / "toy")
    settings = toy_settings(root, when, max_time={"seconds": 3600})
    settings["model"]["schedule"] = {"class_path": "OneCycleSchedule"}
    config = write_settings(tmp_path / "toy.yaml", settings)
    run("fit", "--config", config, cwd=tmp_path, expect=143)
    saved = tmp_path / "runs/logs/version_0/checkpoints/interrupted.ckpt"

    monkeypatch.chdir(tmp_path)
    del settings["trainer"]["max_time"]
    settings["trainer"]["callbacks"].pop()
    write_settings(config, settings)
    resume = ["fit", "--config", str(config), "--ckpt_path", str(saved)]
    assert main([*resume, "--trainer.max_epochs=5"]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: a resumed run keeps the lengths of its schedule")
    assert "18 steps (3 epochs of 6 steps) → OneCycleSchedule of 30 steps (5 epochs" in said
    assert main(resume) == 0
    last = max((tmp_path / "runs/logs").rglob("last.ckpt"), key=lambda path: path.parts)
    assert torch.load(last, weights_only=True)["global_step"] == 18
