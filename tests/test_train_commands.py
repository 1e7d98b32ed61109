"""The road of the README, command by command: photos → checkpoint → archive → score."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from toy_cars import write_class_folders

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "lightning_train/configs/efficientnet_lite0_cpu.yaml"


def run(*arguments: object, cwd: Path) -> str:
    command = [sys.executable, "-m", "lightning_train", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_own_cars_are_trained_resumed_packaged_and_scored(tmp_path: Path) -> None:
    data = write_class_folders(tmp_path / "data")
    write_class_folders(tmp_path / "data", per_class=4, split="test")
    fit = ["fit", "--config", CONFIG, "--data.root", data]
    # Short and small, but the shipped configuration in all else.
    fit += ["--data.size", 64, "--data.batch_size", 16]
    run(*fit, "--trainer.max_epochs", 1, cwd=tmp_path)
    first = tmp_path / "runs/efficientnet_lite0_cpu/logs/version_0/checkpoints"
    saved = (first / "last.ckpt").read_bytes()

    run(*fit, "--trainer.max_epochs", 2, "--ckpt_path", first / "last.ckpt", cwd=tmp_path)
    second = tmp_path / "runs/efficientnet_lite0_cpu/logs/version_1"
    assert (first / "last.ckpt").read_bytes() == saved  # another run has a place of its own
    epochs = {line.split(",")[0] for line in (second / "metrics.csv").read_text().splitlines()}
    assert "1" in epochs
    assert "0" not in epochs  # it went on instead of starting again

    archive, report = tmp_path / "store/car_identifier.mar", tmp_path / "report"
    said = run(
        *("archive", "--checkpoint", second / "checkpoints/last.ckpt", "--version", "1.1"),
        *("--data", data, "--out", archive, "--calibration_photos", 20),
        cwd=tmp_path,
    )
    assert "will never say not_a_car" in said
    card = archive.with_suffix(".md").read_text()
    assert "photos of your own" in card
    assert "Stanford" not in card
    run(
        *("evaluate", "--archive", archive, "--data", data, "--split", "test", "--report", report),
        cwd=tmp_path,
    )
    assert json.loads((report / "metrics.json").read_text())["figures"]["photos"] == 12


@pytest.mark.parametrize("command", ["fit", "archive", "evaluate"])
def test_every_command_explains_itself(command: str, tmp_path: Path) -> None:
    assert "--data" in run(command, "--help", cwd=tmp_path)
