"""Variants of a configuration, trained and compared."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import yaml
from toy_cars import write_devkit

from lightning_train.ablation import _difference, _Result, ablation, read_experiment

CALLBACKS = "lightning_train.callbacks"
CONFIG = {
    "data": {"size": 32, "batch_size": 9},
    "model": {"network": "resnet18", "weights": None, "dropout": 0.2},
    "trainer": {
        "max_epochs": 1,
        "accelerator": "cpu",
        "callbacks": [{"class_path": f"{CALLBACKS}.GeometricAugmentation"}],
    },
}


def write_experiment(folder: Path, **content: object) -> Path:
    (folder / "base.yaml").write_text(yaml.safe_dump(CONFIG))
    path = folder / "experiment.yaml"
    path.write_text(
        yaml.safe_dump({"title": "T", "config": "base.yaml"} | content, sort_keys=False)
    )
    return path


def names(run: dict) -> list[str]:
    return [c["class_path"].rpartition(".")[2] for c in run["trainer"]["callbacks"]]


def test_a_run_is_the_base_with_what_it_changes(tmp_path: Path) -> None:
    ema = {"class_path": f"{CALLBACKS}.EMA"}
    path = write_experiment(
        tmp_path,
        overrides={"data.size": 64, "model.optimizer.init_args": {"lr": 0.1}},
        runs={
            "base": None,
            "changed": {"model.dropout": 0.5, "with": [ema], "without": ["GeometricAugmentation"]},
            "again": {"like": "changed", "model.optimizer.init_args.lr": 0.2},
        },
    )
    runs = read_experiment(path).runs
    assert runs["base"]["data"] == {"size": 64, "batch_size": 9}
    assert (runs["base"]["model"]["dropout"], names(runs["base"])) == (
        0.2,
        ["GeometricAugmentation"],
    )
    assert (runs["changed"]["model"]["dropout"], names(runs["changed"])) == (0.5, ["EMA"])
    assert names(runs["again"]) == ["EMA"]
    rates = [run["model"]["optimizer"]["init_args"]["lr"] for run in runs.values()]
    assert rates == [0.1, 0.1, 0.2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"runs": {"a": None}, "seed": [1]}, "'seed': did you mean 'seeds'"),
        ({}, "lacks 'runs'"),
        ({"runs": {"a": {"without": ["EMA"]}}}, "'a': without EMA: there is no such callback"),
        ({"runs": {"a": {"like": "b"}}}, "is like 'b', which is no run above it"),
        ({"runs": {"a": None}, "baseline": "b"}, "baseline 'b' is none of a"),
        ({"runs": {"a": {"model.dropout.x": 1}}}, "dropout is no mapping"),
    ],
)
def test_a_wrong_experiment_is_told_what_is_wrong(
    tmp_path: Path, content: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_experiment(write_experiment(tmp_path, **content))


def test_runs_are_trained_once_and_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_devkit(tmp_path / "toy", per_class=10)
    runs = {
        "base": None,
        "no such network": {"model.network": "resnet19"},
        "low": {"model.dropout": 0},
    }
    path = write_experiment(tmp_path, about="Why?", runs=runs)
    out = tmp_path / "out"
    table = ablation(path, data, out, only=["base"])
    assert "low" not in table.read_text()
    ablation(path, data, out)
    said = capsys.readouterr().out
    assert "1/3 base, seed 1: finished before" in said
    assert f"2/3 no such network, seed 1: failed, {out}/no-such-network-1/log.txt says why" in said
    assert "resnet19" in (out / "no-such-network-1/log.txt").read_text()
    lines = [line for line in table.read_text().splitlines() if line.startswith("|")]
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| base", "| low"]
    assert "Why?" in table.read_text()
    results = json.loads((out / "results.json").read_text())
    assert results["base"][0]["photos"] == 3
    assert not list(out.rglob("*.ckpt"))
    with pytest.raises(ValueError, match="choose among base"):
        ablation(path, data, out, only=["bass"])


def test_the_difference_is_that_of_the_answers_to_the_same_photos() -> None:
    def result(right: list[int]) -> _Result:
        return _Result({}, right, photos=20, minutes=1)

    difference, error = _difference([result([5, 5, 3, 1])], [result([4, 4, 4, 0])])
    assert difference == pytest.approx(2 / 20)
    # Differences 1, 1, -1, 1 in four classes: standard deviation 1, of a sum of four 2.
    assert error == pytest.approx(math.sqrt(4) * 1 / 20)
    same, certain = _difference([result([5, 5, 5, 5])], [result([4, 4, 4, 4])])
    assert (same, certain) == (pytest.approx(4 / 20), 0)
