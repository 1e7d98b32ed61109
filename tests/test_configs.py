"""Every configuration and experiment that is shipped can be run as it stands."""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from toy_cars import write_devkit

from lightning_train.ablation import read_experiment
from lightning_train.cli import main

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted((ROOT / "lightning_train/configs").glob("*.yaml"))
EXPERIMENTS = sorted((ROOT / "lightning_train/experiments").glob("*.yaml"))


def stem(path: Path) -> str:
    return path.stem


@pytest.fixture(scope="module")
def toy_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_devkit(tmp_path_factory.mktemp("toy"), per_class=4)


@pytest.mark.parametrize("config", CONFIGS, ids=stem)
def test_a_configuration_trains_as_it_stands(config: Path, toy_root: Path, tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "lightning_train", "fit", "--config", str(config)),
        *("--data.root", str(toy_root), "--trainer.fast_dev_run=true"),
        # Small, without a download and without minutes of compiling; all else as configured.
        *("--data.size=32", "--data.batch_size=2", "--model.weights=null", "--model.compile=false"),
    ]
    if "distillation" in yaml.safe_load(config.read_text())["model"]:
        command.append("--model.distillation=null")  # the teachers know other cars than these toys
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("config", CONFIGS, ids=stem)
def test_a_configuration_says_what_it_is_for_and_ends_at_a_minimum(config: Path) -> None:
    header = config.read_text().partition("\nseed_everything")[0]
    assert re.search(
        rf"make train(-within MINUTES=\d+)? CONFIG=lightning_train/configs/{config.name}", header
    )
    assert "# Gave: " in header
    content = yaml.safe_load(config.read_text())
    cycle = content["model"]["schedule"]["init_args"]
    if "cycles" in cycle:  # parts of the run, whatever its length
        return
    length = cycle["step_size_up"] + cycle.get("step_size_down", cycle["step_size_up"])
    assert content["trainer"]["max_epochs"] % length == 0


def test_the_default_is_the_mission() -> None:
    model = yaml.safe_load((ROOT / "lightning_train/configs/resnet152.yaml").read_text())["model"]
    assert (model["network"], model["weights"]) == ("resnet152", "imagenet")
    assert model["schedule"]["class_path"] == "CyclicSchedule"


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=stem)
def test_every_run_of_an_experiment_is_a_valid_configuration(
    experiment: Path, toy_root: Path, tmp_path: Path
) -> None:
    read = read_experiment(experiment)
    assert read.about
    texts = set()
    for run in read.runs.values():
        config = tmp_path / "config.yaml"
        config.write_text(yaml.safe_dump(run))
        said = io.StringIO()
        with contextlib.redirect_stdout(said), pytest.raises(SystemExit) as end:
            main(["fit", "--config", str(config), "--data.root", str(toy_root), "--print_config"])
        assert end.value.code in (0, None)
        texts.add(said.getvalue())
    assert len(texts) == len(read.runs)  # no two are the same
