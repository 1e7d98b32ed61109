"""However a run ends, it can be gone on with: real signals, a real lack of space, real NaNs."""

from __future__ import annotations

import csv
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_cars import write_class_folders
from toy_commands import (
    ENVIRONMENT,
    SIGINT,
    SIGTERM,
    run,
    start,
    toy_settings,
    write_settings,
)

from lightning_train.callbacks.failures import AtomicCheckpointIO, DiskFullError
from lightning_train.cli import main

Checkpoint = dict[str, Any]


@pytest.fixture(scope="module")
def toy_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Two batches of validation photos.
    return write_class_folders(tmp_path_factory.mktemp("toy"), per_class=50)


def checkpoint(folder: Path, name: str = "last", version: int = 0) -> Path:
    return folder / f"runs/logs/version_{version}/checkpoints/{name}.ckpt"


def read(path: Path) -> Checkpoint:
    return torch.load(path, weights_only=True)


def different(one: Checkpoint, other: Checkpoint) -> set[str]:
    """Names of the weights, averaged or not, that two checkpoints do not have in common."""
    return {
        f"{kind}/{name}"
        for kind in ("state_dict", "current_model_state")
        for name, value in one[kind].items()
        if not torch.equal(value, other[kind][name])
    }


def scores(folder: Path, version: int = 0) -> list[str]:
    """Loss of every validation that a run has finished."""
    with (folder / f"runs/logs/version_{version}/metrics.csv").open(newline="") as log:
        return [row["val/loss"] for row in csv.DictReader(log) if row.get("val/loss")]


@pytest.fixture(scope="module")
def uninterrupted(toy_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    settings = toy_settings(toy_root)
    run("fit", "--config", write_settings(folder / "toy.yaml", settings), cwd=folder)
    return folder


@pytest.mark.parametrize(
    ("when", "exit_code", "steps"),
    [
        ({"signum": SIGINT, "step": 8}, 130, 9),  # in the second epoch of six steps
        ({"signum": SIGTERM, "step": 11}, 143, 12),  # in its last step: its validation is due
        ({"signum": SIGINT, "step": 0, "during": "validation", "epoch": 2}, 130, 18),
    ],
    ids=["Ctrl-C within an epoch", "SIGTERM at an epoch's end", "Ctrl-C in the last validation"],
)
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(
    when: dict[str, Any],
    exit_code: int,
    steps: int,
    toy_root: Path,
    uninterrupted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = toy_settings(toy_root, {"class_path": "toy_commands.SignalAt", "init_args": when})
    config = write_settings(tmp_path / "toy.yaml", settings)
    said = run("fit", "--config", config, cwd=tmp_path, expect=exit_code)
    saved = checkpoint(tmp_path, "interrupted")
    assert "Traceback" not in said
    assert f"after step {steps}; saved runs/logs/version_0/checkpoints/interrupted.ckpt" in said
    assert f"--ckpt_path {saved.relative_to(tmp_path)}" in said.splitlines()[-1]
    assert read(saved)["global_step"] == steps
    assert sorted(path.name for path in saved.parent.iterdir() if path.suffix != ".ckpt") == []

    config = write_settings(tmp_path / "toy.yaml", toy_settings(toy_root))
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config", str(config), "--ckpt_path", str(saved)]) == 0
    whole, resumed = read(checkpoint(uninterrupted)), read(checkpoint(tmp_path, version=1))
    assert resumed["global_step"] == whole["global_step"] == 18
    assert different(whole, resumed) == set()
    # Every validation that was not finished before was made whole.
    assert scores(tmp_path) + scores(tmp_path, 1) == scores(uninterrupted)


def test_a_second_ctrl_c_quits_at_once(toy_root: Path, tmp_path: Path) -> None:
    twice = [
        {"class_path": "toy_commands.SignalAt", "init_args": {"signum": SIGINT, "step": 8}}
        for _ in range(2)
    ]
    config = write_settings(tmp_path / "toy.yaml", toy_settings(toy_root, *twice))
    process = start("fit", "--config", config, cwd=tmp_path)
    process.communicate()
    assert process.returncode == -signal.SIGINT
    assert not checkpoint(tmp_path, "interrupted").exists()
    assert read(checkpoint(tmp_path))["epoch"] == 0  # what the first epoch left is whole


def test_ctrl_c_before_the_first_step_is_no_traceback(toy_root: Path, tmp_path: Path) -> None:
    early = {"class_path": "toy_commands.SignalAt", "init_args": {"signum": SIGINT, "step": -1}}
    config = write_settings(tmp_path / "toy.yaml", toy_settings(toy_root, early))
    assert "Traceback" not in run("fit", "--config", config, cwd=tmp_path, expect=130)


def run_on_two_processes(root: Path, callback: object, folder: Path) -> str:
    """Train with `torchrun` until something ends it; returns what it said."""
    settings = toy_settings(root, callback, devices=2, strategy="ddp")
    settings["data"]["batch_size"] = 8
    config = write_settings(folder / "toy.yaml", settings)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*torchrun, "--nproc-per-node=2", "-m", "lightning_train", "fit", "--config", config],
        cwd=folder, env=ENVIRONMENT, text=True, capture_output=True, timeout=250,
    )  # fmt: skip
    assert done.returncode != 0
    return done.stderr


def test_the_processes_of_a_ddp_run_leave_after_the_same_step(
    toy_root: Path, tmp_path: Path
) -> None:
    # Only the second process gets the signal.
    when = {"signum": SIGTERM, "step": 8, "rank": 1}
    callback = {"class_path": "toy_commands.SignalAt", "init_args": when}
    said = run_on_two_processes(toy_root, callback, tmp_path)
    assert "stopped by SIGTERM in epoch 1 after step 9" in said
    assert "the same command with --ckpt_path" in said
    assert read(checkpoint(tmp_path, "interrupted"))["global_step"] == 9


def test_a_bad_loss_in_one_process_stops_them_all(toy_root: Path, tmp_path: Path) -> None:
    callback = {"class_path": "toy_commands.PoisonAt", "init_args": {"step": 8, "rank": 1}}
    said = run_on_two_processes(toy_root, callback, tmp_path)
    assert "error: the loss became inf in step 9" in said
    saved = read(checkpoint(tmp_path, "interrupted"))["current_model_state"]
    assert all(bool(value.isfinite().all()) for value in saved.values())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_loss_that_is_no_number_stops_the_run_before_it_spoils_the_weights(
    accumulate: int,
    toy_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    poison = {"class_path": "toy_commands.PoisonAt", "init_args": {"step": 8}}
    settings = toy_settings(toy_root, poison, accumulate_grad_batches=accumulate)
    config = write_settings(tmp_path / "toy.yaml", settings)
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config", str(config)]) == 1
    said = capsys.readouterr().err
    assert "error: the loss became nan in step 9" in said
    assert "learning rate of 0.0" in said
    assert "gradient_clip_val" in said
    assert "lr-range-test" in said
    assert "--ckpt_path runs/logs/version_0/checkpoints/interrupted.ckpt" in said
    before, saved = torch.load("before.pt"), read(checkpoint(tmp_path, "interrupted"))
    assert saved["global_step"] == 8
    for name, value in saved["current_model_state"].items():
        if value.is_floating_point():  # batch norms also count their batches, the bad one too
            assert torch.equal(value, before[name]), name


def test_no_checkpoint_is_made_of_weights_that_are_spoilt_already(
    toy_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    poison = {"class_path": "toy_commands.PoisonAt", "init_args": {"step": 8, "weights": True}}
    config = write_settings(tmp_path / "toy.yaml", toy_settings(toy_root, poison))
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config", str(config)]) == 1
    assert "The last whole checkpoint is runs/logs/version_0/checkpoints/last.ckpt" in (
        capsys.readouterr().err
    )
    assert not checkpoint(tmp_path, "interrupted").exists()


def test_a_full_disk_leaves_the_earlier_checkpoint_whole(toy_root: Path, tmp_path: Path) -> None:
    settings = toy_settings(toy_root, max_epochs=1000)
    process = start("fit", "--config", write_settings(tmp_path / "t.yaml", settings), cwd=tmp_path)
    last = checkpoint(tmp_path)
    until = time.monotonic() + 120
    while not last.exists() and time.monotonic() < until:
        time.sleep(0.02)
    # No file of the process may grow beyond 10 MB any more: for it, the disk is full.
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (10_000_000, resource.RLIM_INFINITY))
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Traceback" not in said
    assert "error: no room for a checkpoint of 1" in said  # of 134 MB
    assert f"MB in {last.parent.relative_to(tmp_path)}" in said
    assert f"--ckpt_path {last.relative_to(tmp_path)}" in said
    assert read(last)["epoch"] >= 0
    assert {path.suffix for path in last.parent.iterdir()} == {".ckpt"}
    assert not list(last.parent.glob(".*"))


def test_a_checkpoint_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "run/last.ckpt"
    writer = AtomicCheckpointIO()
    writer.save_checkpoint({"epoch": torch.tensor(1)}, path)
    inode = path.stat().st_ino
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(DiskFullError, match=r"no room for a checkpoint of 4 MB in .*/run"):
            writer.save_checkpoint({"weights": torch.zeros(1_000_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert read(path)["epoch"] == 1
    writer.save_checkpoint({"epoch": torch.tensor(2)}, path)
    assert path.stat().st_ino != inode  # another file under the name, not one written over
    assert [found.name for found in path.parent.iterdir()] == ["last.ckpt"]
