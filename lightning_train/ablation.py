"""Train variants of one configuration and compare them in one table.

An experiment is a YAML file:

    title: Mixing photos
    about: Does mixup help within six epochs?
    config: ../configs/efficientnet_lite0_cpu.yaml    # relative to this file
    overrides: {data.size: 80, trainer.max_epochs: 6} # of every run
    without: [FreezeStages]                           # callbacks left out, by class name
    seeds: [1, 2]
    baseline: none
    runs:
      none: {}
      mixup: {with: [{class_path: lightning_train.callbacks.MixupAugmentation}]}
      "mixup, low rate": {like: mixup, model.optimizer.init_args.lr: 0.001}

A run names settings by their dotted keys (a mapping replaces what was there), `with` and `without`
add and remove callbacks, `like` starts from another run's changes.
"""

from __future__ import annotations

import copy
import csv
import json
import math
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from rich.table import Table

__all__ = ["Experiment", "ablation", "read_experiment"]

_KEYS = {"title", "about", "config", "overrides", "with", "without", "seeds", "baseline", "runs"}


@dataclass(frozen=True, slots=True)
class Experiment:
    """What is to be compared.

    Attributes:
        title: heading of the table.
        about: what is asked, a sentence or two.
        runs: name → the whole configuration of its `fit`, but for the seed.
        seeds: every run is repeated with each.
        baseline: the run that the others are compared with.
    """

    title: str
    about: str
    runs: Mapping[str, Mapping[str, Any]]
    seeds: Sequence[int]
    baseline: str


@dataclass(frozen=True, slots=True)
class _Result:
    """What one run came to, after its last epoch.

    Attributes:
        figures: top-1, top-5, … of the validation photos, and the training loss.
        right: right answers of each class, in class order; the photos are the same in every run.
        photos: how many they are.
        minutes: of the whole command.
    """

    figures: dict[str, float]
    right: list[int]
    photos: int
    minutes: float


def ablation(
    experiments: Path, data: Path, out: Path | None = None, only: list[str] | None = None
) -> Path:
    """Train every run of an experiment that has not been trained yet, and write the table.

    Each run is a `fit` of its own in OUT/NAME-SEED, with its configuration and its log; validation
    happens once, after the last epoch, so that no epoch is chosen on the photos that it is scored
    on. A finished run is not trained again; one that was cut off or failed is. A run that fails
    does not stop the others.

    Args:
        experiments: the YAML file, see `lightning_train.ablation`.
        data: folder of the data set.
        out: results; by default runs/ablations/ and the experiment's file name.
        only: names of the runs to train now; the table shows all that are finished.

    Returns:
        The table, a Markdown file, with `results.json` beside it.

    Raises:
        ValueError: the experiment is not as described, or none of its runs came to an end.
    """
    experiment = read_experiment(experiments)
    out = out or Path("runs/ablations") / experiments.stem
    unknown = sorted(set(only or ()) - set(experiment.runs))
    if unknown:
        raise ValueError(f"no run {unknown[0]!r}: choose among {', '.join(experiment.runs)}")
    # Seed by seed: a cut leaves a whole comparison behind.
    todo = [(name, seed) for seed in experiment.seeds for name in only or experiment.runs]
    for number, (name, seed) in enumerate(todo, 1):
        print(f"{number}/{len(todo)} {name}, seed {seed}: ", end="", flush=True)
        print(_train(experiment.runs[name], seed, data, _folder(out, name, seed)), flush=True)
    results = {
        name: [r for seed in experiment.seeds if (r := _read(_folder(out, name, seed)))]
        for name in experiment.runs
    }
    results = {name: found for name, found in results.items() if found}
    if not results:
        raise ValueError(f"no run came to an end: {out}/*/log.txt say why")
    return _write(experiment, results, out, f"--experiments {experiments} --data FOLDER")


def read_experiment(path: Path) -> Experiment:
    """Read and check an experiment.

    Raises:
        ValueError: it is not as described; the message says where.
    """
    content = _yaml(path)
    unknown = sorted(set(content) - _KEYS)
    if unknown:
        close = get_close_matches(unknown[0], _KEYS, 1)
        meant = f": did you mean {close[0]!r}?" if close else f": it knows {', '.join(_KEYS)}"
        raise ValueError(f"{path} has a key {unknown[0]!r}{meant}")
    missing = [key for key in ("title", "config", "runs") if not content.get(key)]
    if missing:
        raise ValueError(f"{path} lacks {missing[0]!r}")
    common = _change(_yaml(path.parent / content["config"]), content.get("overrides") or {})
    common = _change(common, {key: content[key] for key in ("with", "without") if key in content})
    runs: dict[str, Any] = {}
    for name, changes in content["runs"].items():
        changes = dict(changes or {})
        like = changes.pop("like", None)
        if like is not None and like not in runs:
            raise ValueError(f"{path}: {name!r} is like {like!r}, which is no run above it")
        try:
            runs[name] = _change(runs[like] if like else common, changes)
        except ValueError as error:
            raise ValueError(f"{path}: {name!r}: {error}") from error
    baseline = content.get("baseline", next(iter(runs)))
    if baseline not in runs:
        raise ValueError(f"{path}: the baseline {baseline!r} is none of {', '.join(runs)}")
    return Experiment(
        content["title"], content.get("about", ""), runs, content.get("seeds", [1]), baseline
    )


def _yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"no file {path}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no settings")
    return content


def _change(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with dotted keys set, and callbacks added and removed."""
    changed: dict[str, Any] = copy.deepcopy(dict(config))
    callbacks = changed.setdefault("trainer", {}).setdefault("callbacks", [])
    for name in changes.get("without", []):
        kept = [c for c in callbacks if c["class_path"].rpartition(".")[2] != name]
        if len(kept) == len(callbacks):
            raise ValueError(f"without {name}: there is no such callback")
        callbacks[:] = kept
    for key, value in changes.items():
        if key in ("with", "without"):
            continue
        *parents, last = key.split(".")
        place = changed
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise ValueError(f"{key}: {parent} is no mapping that could hold {last}")
        place[last] = copy.deepcopy(value)
    callbacks.extend(copy.deepcopy(changes.get("with", [])))
    return changed


def _folder(out: Path, name: str, seed: int) -> Path:
    return out / f"{re.sub(r'[^a-z0-9.]+', '-', name.lower()).strip('-')}-{seed}"


def _train(run: Mapping[str, Any], seed: int, data: Path, folder: Path) -> str:
    """Train a run in a process of its own; returns what came of it, for the terminal."""
    trainer = {
        **run["trainer"],
        "default_root_dir": str(folder),
        "check_val_every_n_epoch": run["trainer"].get("max_epochs", 1),
        "num_sanity_val_steps": 0,
        "enable_progress_bar": False,
        "enable_checkpointing": False,
    }
    settings = {**run.get("data", {}), "root": str(data)}
    config = {**run, "seed_everything": seed, "trainer": trainer, "data": settings}
    text = yaml.safe_dump(config, sort_keys=False)
    before = _read(folder)
    if before is not None and (folder / "config.yaml").read_text(encoding="utf-8") == text:
        return "finished before"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "lightning_train", "fit", "--config"]
    start = time.monotonic()
    with (folder / "log.txt").open("w", encoding="utf-8") as log:
        done = subprocess.run(  # noqa: S603  (our own arguments)
            [*command, str(folder / "config.yaml")], stdout=log, stderr=subprocess.STDOUT
        )
    if done.returncode in (130, 143):
        raise KeyboardInterrupt
    minutes = (time.monotonic() - start) / 60
    (folder / "minutes.json").write_text(json.dumps(minutes))
    result = _read(folder)
    if done.returncode or result is None:
        (folder / "minutes.json").unlink()
        return f"failed, {folder / 'log.txt'} says why"
    return f"top-1 {100 * result.figures['top1']:.1f} % in {minutes:.1f} minutes"


def _read(folder: Path) -> _Result | None:
    """What a run came to; None if it did not come to an end."""
    reports = sorted(folder.glob("**/report/metrics.json"))
    timed = folder / "minutes.json"
    if not reports or not timed.is_file():
        return None
    report = json.loads(reports[-1].read_text(encoding="utf-8"))
    classes = sorted(report["classes"], key=lambda row: row["class_id"])
    figures = {name: float(value) for name, value in report["figures"].items()}
    figures["train_loss"] = _last_train_loss(reports[-1].parent.parent / "metrics.csv")
    # The third of the classes with the fewest training photos, ties by class id.
    rarest = sorted(classes, key=lambda row: row["training_photos"])
    rare = [row for row in rarest[: max(round(len(classes) / 3), 1)] if row["photos"]]
    if rare and rarest[-1]["training_photos"] > 3 * rarest[0]["training_photos"]:
        figures["rare"] = sum(r["right"] for r in rare) / sum(r["photos"] for r in rare)
    return _Result(
        figures,
        [row["right"] for row in classes],
        sum(row["photos"] for row in classes),
        json.loads(timed.read_text()),
    )


def _last_train_loss(log: Path) -> float:
    if not log.is_file():
        return math.nan
    with log.open(newline="") as lines:
        values = [row.get("train/loss_epoch") for row in csv.DictReader(lines)]
    found = [float(value) for value in values if value]
    return found[-1] if found else math.nan


def _difference(results: Sequence[_Result], baseline: Sequence[_Result]) -> tuple[float, float]:
    """Difference of top-1 to the baseline, and its standard error, both 0…1.

    The same photos, class by class: the spread of the classes' differences (their answers, summed
    over the seeds) says how much another choice of photos would have changed the sum.
    """
    pairs = list(zip(results, baseline, strict=False))
    by_class = [
        sum(rights)
        for rights in zip(
            *([a - b for a, b in zip(r.right, base.right, strict=True)] for r, base in pairs),
            strict=True,
        )
    ]
    answers = sum(r.photos for r, _ in pairs)
    spread = statistics.stdev(by_class) if len(by_class) > 1 else 0.0
    return sum(by_class) / answers, spread * math.sqrt(len(by_class)) / answers


def _write(
    experiment: Experiment, results: Mapping[str, Sequence[_Result]], out: Path, options: str
) -> Path:
    """Print the table, and write it with the raw figures."""
    unequal = any("rare" in r.figures for found in results.values() for r in found)
    heading = ["run", "top-1", "against the baseline", "top-5", "mean of classes"]
    heading += ["rarest third"] if unequal else []
    heading += ["train loss", "minutes", "seeds"]
    rows = []
    for name, found in results.items():
        mean = {
            figure: statistics.mean(r.figures[figure] for r in found) for figure in found[0].figures
        }
        if name == experiment.baseline:
            against = "baseline"
        elif experiment.baseline in results:
            difference, error = _difference(found, results[experiment.baseline])
            against = f"{100 * difference:+.1f} ± {100 * error:.1f}"
        else:
            against = ""
        row = [name, f"{100 * mean['top1']:.1f} %", against, f"{100 * mean['top5']:.1f} %"]
        row += [f"{100 * mean['per_class']:.1f} %"]
        row += [f"{100 * mean['rare']:.1f} %"] if unequal else []
        minutes = statistics.mean(r.minutes for r in found)
        rows.append([*row, f"{mean['train_loss']:.2f}", f"{minutes:.1f}", str(len(found))])
    table = Table(*heading)
    for row in rows:
        table.add_row(*row)
    console = Console()
    # Not in a terminal, rich would take 80 columns, too few for this.
    console.width = max(console.width, 120)
    console.print(experiment.title, table, sep="\n")
    lines = [" | ".join(row) for row in [heading, ["---"] * len(heading), *rows]]
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    text = (
        f"# {experiment.title}\n\n{experiment.about.strip()}\n\n"
        + "\n".join(f"| {line} |" for line in lines)
        + f"\n\nWritten by `python -m lightning_train ablation {options}` on "
        f"{datetime.now(UTC):%Y-%m-%d}: {where}, {torch.get_num_threads()} thread(s), torch "
        f"{torch.__version__}, Python {platform.python_version()}. Validation photos "
        f"({next(iter(results.values()))[0].photos}), after the last epoch; means over the seeds. "
        "“Against the baseline” is in points of top-1, with a standard error from the differences "
        "class by class on the same photos; it does not hold what another seed would change.\n"
    )
    path = out / "results.md"
    path.write_text(text, encoding="utf-8")
    raw = {name: [asdict(result) for result in found] for name, found in results.items()}
    (out / "results.json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
    print(f"written to {path} and results.json")
    return path
