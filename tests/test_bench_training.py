"""The training benchmark measures what it says, on the toy cars."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from toy_cars import write_devkit

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config", "gone.yaml"], "gone.yaml"),
        (["--rounds", "0"], "--rounds, --steps and --warmup are at least 1"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(arguments: list[str], said: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.training", *arguments],
        cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_three_loops_are_measured_side_by_side(tmp_path: Path) -> None:
    data = write_devkit(tmp_path / "toy")
    config = tmp_path / "config.yaml"
    augmentation = {
        "class_path": "lightning_train.callbacks.ZoomAugmentation",
        "init_args": {"sizes": {0: 16, 1: 24}},
    }
    settings = {
        "data": {"root": str(data), "size": 32, "batch_size": 6},
        "model": {"network": "resnet18", "weights": None},
        "trainer": {"accelerator": "cpu", "max_epochs": 2, "callbacks": [augmentation]},
    }
    config.write_text(yaml.safe_dump(settings))
    command = [
        *(sys.executable, "-m", "benchmarks.training", "--config", str(config)),
        *("--rounds", "2", "--steps", "3", "--warmup", "1", "--workers", "1"),
        *("--out", str(tmp_path / "results")),
    ]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (result,) = (json.loads(f.read_text()) for f in (tmp_path / "results").glob("*.json"))
    assert result["batch"] == [6, 3, 24, 24]  # as the network sees it in the last epoch
    speeds = result["photos_per_second"]
    assert list(speeds) == ["this loop", "ceiling", "usual loop"]
    assert all(len(rounds) == 2 and min(rounds) > 0 for rounds in result["rounds"].values())
    assert result["of_ceiling"] == speeds["this loop"] / speeds["ceiling"]
    (table,) = (tmp_path / "results").glob("*.md")
    assert f"| this loop | {speeds['this loop']:,.1f} |" in table.read_text()
    assert not (tmp_path / "logs").exists()  # nothing is left of the measured runs
