"""The road to a ResNet-152: every leg as it stands, one after the other, but small."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from toy_cars import write_devkit

from handler.archive import extract_archive
from lightning_train.export import float_logits
from lightning_train.float_weights import read_weights
from lightning_train.trained import load_classifier

ROOT = Path(__file__).resolve().parent.parent
ROAD = ROOT / "lightning_train/configs/road"
LEGS = sorted(ROAD.glob("*.yaml"))
# As on a machine that trains and does not serve.
_WITHOUT_ENGINES = """
import sys
sys.modules.update(dict.fromkeys(["openvino", "nncf", "ts", "model_archiver"]))
from lightning_train.cli import main
sys.exit(main())
"""


def fit(leg: Path, root: Path, folder: Path, *settings: str) -> str:
    command = [
        *(sys.executable, "-c", _WITHOUT_ENGINES, "fit", "--config", str(leg)),
        *("--data.root", str(root), "--data.batch_size=2", "--trainer.limit_train_batches=2"),
        *("--trainer.max_epochs=2", "--trainer.check_val_every_n_epoch=1"),
        *("--model.compile=false", "--trainer.accelerator=cpu", *settings),
    ]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.timeout(900)
def test_each_leg_starts_with_what_the_one_before_has_left(tmp_path: Path) -> None:
    root = write_devkit(tmp_path / "toy", per_class=4)
    for leg in LEGS:
        if "teacher" in leg.stem:
            changes = ["--model.weights=null"]  # instead of ImageNet's
        else:
            folders = [f"runs/road/{one.stem}/weights" for one in LEGS if "teacher" in one.stem]
            changes = [f"--model.distillation.teachers=[{','.join(folders)}]"]
        fit(leg, root, tmp_path, *changes)
        log = tmp_path / f"runs/road/{leg.stem}/logs/version_0"
        assert json.loads((log / "run.json").read_text())["epochs"] == 2
        network = yaml.safe_load(leg.read_text())["model"]["network"]
        assert (
            read_weights(tmp_path / f"runs/road/{leg.stem}/weights").settings["network"] == network
        )
        # Every leg's checkpoints are as large as its network.
        for checkpoint in log.glob("checkpoints/*.ckpt"):
            checkpoint.unlink()


@pytest.mark.parametrize("leg", LEGS, ids=lambda leg: leg.stem)
def test_a_leg_ends_at_a_minimum_however_many_minutes_it_gets(leg: Path) -> None:
    content = yaml.safe_load(leg.read_text())
    schedule = content["model"]["schedule"]
    assert schedule["class_path"] == "CyclicSchedule"
    assert schedule["init_args"]["cycles"] == 1
    zoom = content["trainer"]["callbacks"][0]["init_args"]["sizes"]
    assert all(0 <= part < 1 for part in zoom)
    header = leg.read_text().partition("\nseed_everything")[0]
    assert "make train-within MINUTES=" in header
    assert f"CONFIG=lightning_train/configs/road/{leg.name} DATA=" in header
    assert "# Gave: " in header
    # It begins with weights that a leg before it writes, and learns from those of the repository.
    earlier = {
        yaml.safe_load(one.read_text())["trainer"]["callbacks"][-1]["init_args"]["folder"]
        for one in LEGS[: LEGS.index(leg)]
    }
    assert content["model"]["weights"] in {None, "imagenet"} | earlier
    for teacher in (content["model"].get("distillation") or {}).get("teachers", []):
        assert len(read_weights(ROOT / teacher).settings["class_names"]) == 196


def test_the_repository_s_float_weights_are_the_bundled_archive_s() -> None:
    with extract_archive(ROOT / "model_store/car_identifier.mar") as content:
        manifest = json.loads((content / "model.json").read_text())
        model = load_classifier(ROOT / "model_store/weights" / manifest["network"])
        with (content / "labels.csv").open(newline="") as labels:
            assert model.class_names == [row["label"] for row in csv.DictReader(labels)]
        with np.load(content / "selfcheck.npz") as kept:
            exact, quantised = float_logits(model, kept["images"]), kept["logits"]
    assert (exact.argmax(1) == quantised.argmax(1)).all()
    # What 8 bits change is little; the other network of the folder agrees to 0.66.
    assert np.corrcoef(exact.ravel(), quantised.ravel())[0, 1] > 0.95
