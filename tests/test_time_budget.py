"""Training for so many minutes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import yaml
from toy_cars import write_devkit
from toy_commands import run, toy_settings, write_settings

from lightning_train.callbacks import ZoomAugmentation
from lightning_train.time_budget import Pace, measure_pace, whole_epochs

_ZOOM = "lightning_train.callbacks.ZoomAugmentation"


def test_as_many_epochs_as_fit_are_trained() -> None:
    zoom = ZoomAugmentation({0: 16, 0.5: 32})
    pace = Pace({16: 1.0, 32: 3.0}, {16: 30, 32: 10}, validation=2.0, zoom=zoom)
    for seconds, expected in [
        (2.9, (0, 1)),
        (3.0, (1, 1)),  # at 16 px, and a validation
        (8.0, (2, 1)),
        (23.9, (5, 1)),  # 3 + 6 and five validations are 19, six of each 24
        (24.0, (6, 1)),
        (100.0, (42, 7)),  # 21 + 63 and six validations are 96
        (1000.0, (492, 82)),  # 246 + 738 and six validations are 996
        (116.0, (49, 7)),  # 25 + 72 and seven validations; with six there would be 48 at most
    ]:
        assert whole_epochs(seconds, pace) == expected
        assert pace.seconds(expected[0], expected[0] // expected[1]) <= seconds
    assert whole_epochs(10.0, Pace({64: 4.0}, {64: 1}, 1.0)) == (2, 1)


class Sizes(pl.Callback):
    """Writes the size of every training batch, and every validation, to `sizes.txt`."""

    def on_train_batch_end(self, *arguments: Any) -> None:
        with Path("sizes.txt").open("a") as file:
            file.write(f"{arguments[3]['image'].shape[-1]} ")

    def on_validation_start(self, *_: object) -> None:
        with Path("sizes.txt").open("a") as file:
            file.write("val ")


def settings(root: Path) -> dict:
    zoom = {"class_path": _ZOOM, "init_args": {"sizes": {0: 16, 0.5: 32}}}
    made = toy_settings(root, zoom)
    made["model"]["schedule"]["init_args"] = {"cycles": 1, "base_lr_fraction": 0.1}
    return made


def test_a_run_is_as_long_as_its_time(tmp_path: Path) -> None:
    root = write_devkit(tmp_path / "toy")
    config = write_settings(tmp_path / "c.yaml", settings(root))
    # A busy machine may need four times as long to measure as a quiet one.
    said = run(
        *("fit-within", "--minutes", "3", "--reserve", "2.2", "--config", config), cwd=tmp_path
    )
    assert "16 px: " in said
    assert "32 px: " in said
    folder = tmp_path / "runs/logs/version_0"
    kept = yaml.safe_load((folder / "config.yaml").read_text())
    epochs = kept["trainer"]["max_epochs"]
    every = kept["trainer"]["check_val_every_n_epoch"]
    assert epochs >= 2
    assert epochs % every == 0
    assert f"{epochs} epochs in 0." in said  # of the 0.8 minutes, measuring took some
    with (folder / "epochs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == list(range(every, epochs + 1, every))
    assert all(row["size"] == "16" for row in rows if int(row["epoch"]) <= epochs / 2)
    assert rows[-1]["size"] == "32"
    record = json.loads((folder / "run.json").read_text())
    assert record["epochs"] == epochs
    assert record["photos"] == record["steps"] * 9
    assert record["last"]["val_top1"] <= record["best"]["val_top1"]
    assert not (tmp_path / "runs/logs/version_1").exists()  # measuring leaves nothing


def test_each_size_is_timed_alone_though_an_epoch_is_shorter_than_the_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = settings(write_devkit(tmp_path / "toy"))
    made["trainer"]["callbacks"].append({"class_path": "test_time_budget.Sizes"})
    config = write_settings(tmp_path / "c.yaml", made)
    pace = measure_pace(["--config", str(config)], steps=5, warmup=4)
    # Six batches an epoch: nine steps at each size, then two validations, after two steps each.
    seen = ["16"] * 9 + ["32"] * 9 + ["32", "32", "val"] * 2
    assert Path("sizes.txt").read_text().split() == seen
    assert list(pace.epoch) == [16, 32]
    assert pace.epoch[32] == pytest.approx(6 * 9 / pace.photos[32])
    assert pace.validation > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--minutes", "0"], "--minutes is more than 0"),
        (["--minutes", "2", "--reserve", "3"], "less than it"),
        ([], "--minutes"),
        (["--minutes", "9", "--ckpt_path", "last.ckpt"], "keeps its length"),
        (["--minutes", "9", "--trainer.max_epoch", "3"], "did you mean"),
    ],
)
def test_a_time_that_makes_no_run_is_refused(
    options: list[str], message: str, tmp_path: Path
) -> None:
    root = write_devkit(tmp_path / "toy")
    config = write_settings(tmp_path / "c.yaml", settings(root))
    said = run("fit-within", "--config", config, *options, cwd=tmp_path, expect=2)
    assert message in said
    assert "Traceback" not in said


def test_too_few_minutes_are_said_after_measuring(tmp_path: Path) -> None:
    root = write_devkit(tmp_path / "toy")
    config = write_settings(tmp_path / "c.yaml", settings(root))
    said = run(
        *("fit-within", "--minutes", "0.02", "--reserve", "0.01", "--config", config),
        cwd=tmp_path, expect=2,
    )  # fmt: skip
    assert "0.02 minutes are too few" in said.splitlines()[-1]
