"""The learning-rate range test: right on curves whose answer is known, and usable by `fit`."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tiny_network import STAGES, tiny_model
from toy_cars import write_class_folders
from toy_commands import toy_settings, write_settings
from toy_training import toy_data

from lightning_train.callbacks import FreezeStages
from lightning_train.cli import main
from lightning_train.range_test import (
    RangeCurve,
    lr_range_test,
    propose_bounds,
    range_test_trainer,
)

# The loss falls from 1e-4 on and is done at 1e-2, along a smooth step whose tenths lie here.
BASE, MAX = 2.5e-4, 4.1e-3


def curve(
    noise: float,
    seed: int = 0,
    fall: float = 1.0,
    steps: int = 200,
    ragged_from: float | None = None,
    explodes: bool = True,
    highest: float = 1.0,
) -> RangeCurve:
    """A loss that is flat, falls, is flat again and explodes, in normal noise."""
    rates = np.geomspace(1e-6, highest, steps)
    part = np.clip(np.log10(rates / 1e-4) / 2, 0, 1)
    losses = 5.3 - fall * part**2 * (3 - 2 * part)
    if explodes:
        losses += 15 * fall * np.log10(np.maximum(rates / 5e-2, 1)) ** 2
    scatter = np.where(rates > (ragged_from or np.inf), 10 * noise, noise)
    losses += np.random.default_rng(seed).normal(size=steps) * scatter
    return RangeCurve(list(rates), list(losses), [0.0] * steps, diverged=explodes)


def factor(value: float, right: float) -> float:
    return max(value / right, right / value)


@pytest.mark.parametrize(
    ("noise", "steps", "within"), [(0.0, 200, 1.2), (0.1, 200, 2.0), (0.1, 100, 3.0)]
)
def test_the_bounds_are_where_the_loss_begins_and_ends_to_fall(
    noise: float, steps: int, within: float
) -> None:
    for seed in range(20):
        bounds = propose_bounds(curve(noise, seed, steps=steps))
        assert bounds is not None
        assert factor(bounds.base, BASE) < within
        assert factor(bounds.max, MAX) < within
        assert not bounds.open_end


def test_noise_as_large_as_the_fall_does_not_lead_far_astray() -> None:
    found = [propose_bounds(curve(0.3, seed, fall=1.0)) for seed in range(40)]
    highest = [bounds.max for bounds in found if bounds is not None]
    assert len(highest) > 35
    assert factor(float(np.median(highest)), MAX) < 1.5
    assert max(highest) < 3e-2  # short of the explosion from 5e-2 on


def test_a_loss_that_becomes_ragged_ends_the_range() -> None:
    for seed in range(20):
        bounds = propose_bounds(curve(0.03, seed, ragged_from=1.5e-3))
        assert bounds is not None
        assert bounds.base < 5e-4
        assert factor(bounds.max, 1.5e-3) < 2  # and not at nine tenths of the fall


def test_a_flat_loss_gives_no_proposal() -> None:
    curves = [curve(0.1, seed, fall=0.0, explodes=False) for seed in range(100)]
    assert sum(propose_bounds(one) is not None for one in curves) <= 2
    assert propose_bounds(curve(0.0, fall=0.0)) is None


def test_a_loss_that_only_grows_gives_no_proposal() -> None:
    rates = np.geomspace(1e-6, 1, 100)
    assert propose_bounds(RangeCurve(list(rates), list(1 + rates), [0.0] * 100, True)) is None


def test_a_range_that_ends_too_early_is_said_to() -> None:
    bounds = propose_bounds(curve(0.02, explodes=False, highest=1e-3))
    assert bounds is not None
    assert bounds.open_end


def test_the_base_leaves_room_for_a_cycle() -> None:
    """The whole fall within a few steps: tenth and nine tenths are nearly the same rate."""
    rates = np.geomspace(1e-6, 1, 200)
    losses = np.where(rates < 1e-3, 5.0, 4.0)
    bounds = propose_bounds(RangeCurve(list(rates), list(losses), [0.0] * 200, False))
    assert bounds is not None
    assert bounds.base <= bounds.max / 3


@pytest.fixture(scope="module")
def toy_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_class_folders(tmp_path_factory.mktemp("toy"))


def test_the_proposal_is_a_configuration_that_fit_takes(
    toy_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = toy_settings(toy_root)
    settings["model"]["backbone_lr_scale"] = 0.25
    config = str(write_settings(tmp_path / "toy.yaml", settings))
    command = ["lr-range-test", "--config", config, "--steps=60", "--max_lr=10"]
    assert main(command) == 0
    folder = tmp_path / "runs/lr_range_test"
    with (folder / "lr_range.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    rates = [float(row["learning_rate"]) for row in rows]
    assert rates[0] == pytest.approx(1e-6)
    assert rates[9] / rates[8] == pytest.approx(1e7 ** (1 / 59))
    assert len(rows) < 60  # a rate of 10 is not reached: the loss has exploded before
    assert {row["accuracy"] for row in rows} > {"1.0"}
    with Image.open(folder / "lr_range.png") as picture:
        assert picture.width > 800
    # Nothing is left of the run itself.
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["lr_range_test"]

    overlay = folder / "lr_range.yaml"
    proposed = yaml.safe_load(overlay.read_text())["model"]
    highest = proposed["optimizer"]["init_args"]["lr"]
    fraction = proposed["schedule"]["init_args"]["base_lr_fraction"]
    assert 1e-5 < highest < 1
    assert fraction <= 0.34
    fit = ["fit", "--config", config, "--config", str(overlay), "--trainer.max_epochs=1"]
    assert main(fit) == 0
    used = yaml.safe_load((tmp_path / "runs/logs/version_0/config.yaml").read_text())["model"]
    assert used["optimizer"]["init_args"]["lr"] == highest
    assert used["optimizer"]["init_args"]["momentum"] == 0.9  # the rest is the first file's
    saved = torch.load(tmp_path / "runs/logs/version_0/checkpoints/last.ckpt", weights_only=True)
    schedule = saved["lr_schedulers"][0]
    head, trunk = max(schedule["base_lrs"]), min(schedule["base_lrs"])
    assert head == pytest.approx(highest * fraction)
    assert trunk == pytest.approx(0.25 * head)  # discriminative rates keep their ratio


def test_every_parameter_group_is_raised_by_the_same_factor(
    toy_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rates = {"class_path": "toy_commands.GroupRates"}
    settings = toy_settings(toy_root, rates)
    settings["model"]["backbone_lr_scale"] = 0.25
    config = str(write_settings(tmp_path / "toy.yaml", settings))
    options = ["--steps=20", "--min_lr=0.001", "--max_lr=0.02", "--mode=linear"]
    assert main(["lr-range-test", "--config", config, *options]) == 0
    seen = np.loadtxt("rates.txt")
    assert seen.shape[0] == 20
    assert seen.max(axis=1) == pytest.approx(np.linspace(0.001, 0.02, 20))
    assert seen.min(axis=1) == pytest.approx(0.25 * np.linspace(0.001, 0.02, 20))


@pytest.mark.parametrize(
    ("stages", "frozen"),
    [({0: "all", 1: 0}, 0), ({0: "all", 4: 1, 2: 3}, 1), (2, 2), ({0: 1, 9: "all"}, STAGES)],
    ids=str,
)
def test_what_a_run_freezes_at_last_is_frozen_from_the_start(
    stages: object, frozen: int, toy_root: Path, tmp_path: Path
) -> None:
    """The test is one epoch, in which a run would perhaps train its head alone."""
    model = tiny_model(optimizer=lambda params: torch.optim.SGD(params, lr=0.1))
    before = {name: value.clone() for name, value in model.network.named_parameters()}
    freezing = FreezeStages(stages)  # type: ignore[arg-type]
    settings = {"accelerator": "cpu", "enable_progress_bar": False, "callbacks": [freezing]}
    trainer = range_test_trainer({**settings, "default_root_dir": tmp_path})
    lr_range_test(model, toy_data(toy_root), trainer, 1e-3, 0.1, steps=20, out=tmp_path / "out")
    trained = {
        name.removeprefix("stages.").partition(".")[0]
        for name, value in model.network.named_parameters()
        if not torch.equal(value, before[name])
    }
    assert trained == {*map(str, range(frozen, STAGES)), "head"}


def test_no_proposal_writes_no_configuration_and_removes_an_old_one(
    toy_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    config = str(write_settings(tmp_path / "toy.yaml", toy_settings(toy_root)))
    old = tmp_path / "out/lr_range.yaml"
    old.parent.mkdir()
    old.touch()
    options = ["--steps=30", "--min_lr=1e-9", "--max_lr=1e-8", "--out=out"]
    assert main(["lr-range-test", "--config", config, *options]) == 0
    assert "no proposal: the loss does not fall between 1e-09 and 1e-08" in capsys.readouterr().out
    assert not old.exists()
    assert (tmp_path / "out/lr_range.png").exists()


@pytest.mark.parametrize("options", [["--min_lr=1", "--max_lr=0.1"], ["--steps=5"]])
def test_an_impossible_range_is_refused(
    options: list[str],
    toy_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    config = str(write_settings(tmp_path / "toy.yaml", toy_settings(toy_root)))
    assert main(["lr-range-test", "--config", config, *options]) == 1
    assert "0 < min_lr < max_lr and 20 steps" in capsys.readouterr().err
