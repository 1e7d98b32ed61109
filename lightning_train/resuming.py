"""Going on with a run: the command for it, and the checkpoints that are fit for it."""

from __future__ import annotations

import os
import pickle
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lightning_train.config_errors import SettingsError
from lightning_train.float_weights import is_weights

__all__ = ["check_checkpoint", "check_schedule", "read_checkpoint", "resume_command"]


def resume_command(arguments: Sequence[str], checkpoint: str) -> str:
    """What to type to go on with a run.

    Args:
        arguments: that started it: `fit` and what followed.
        checkpoint: where to go on from.

    Returns:
        A `make` command where there is a Makefile; for one process of many, who knows only its own
        part of the command, words.
    """
    rest, config, data = [], None, None
    waiting = list(arguments[1:])
    while waiting:
        name, has_value, value = waiting.pop(0).partition("=")
        if not has_value and waiting and not waiting[0].startswith("--"):
            has_value, value = "=", waiting.pop(0)
        if name in ("-c", "--config") and config is None:
            config = value
        elif name == "--data.root":
            data = value
        elif name != "--ckpt_path":
            rest.append(f"{name}{has_value}{value}")
    if any(name in os.environ for name in ("TORCHELASTIC_RUN_ID", "SLURM_JOB_ID")):
        return f"the same command with --ckpt_path {shlex.quote(checkpoint)}"
    if Path("Makefile").is_file() and config is not None:
        words = {"CONFIG": config, "DATA": data, "RESUME": checkpoint, "ARGS": shlex.join(rest)}
        given = (f"{name}={shlex.quote(value)}" for name, value in words.items() if value)
        return f"make train {' '.join(given)}"
    options = ["--config", config] if config is not None else []
    options += ["--data.root", data] if data is not None else []
    return shlex.join(
        ["python", "-m", "lightning_train", "fit", *options, *rest, "--ckpt_path", checkpoint]
    )


def read_checkpoint(path: str) -> dict[str, Any]:
    """Read a checkpoint; its tensors stay on disk until they are used.

    Raises:
        SettingsError: there is none, or something else.
    """
    if is_weights(Path(path)):
        raise SettingsError(
            f"{path} holds weights alone, no run to go on with: use --model.weights {path}"
        )
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise SettingsError(f"no checkpoint {path}") from None
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError):
        checkpoint = None
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise SettingsError(f"{path} is no checkpoint of this trainer, or a damaged one")
    return checkpoint


def check_checkpoint(
    checkpoint: Mapping[str, Any], wanted: Mapping[str, Any], resume: bool
) -> None:
    """Refuse a checkpoint that does not belong to the settings.

    Args:
        checkpoint: see `read_checkpoint`.
        wanted: the model's hyperparameters.
        resume: whether the run is to be gone on with, or only the weights are wanted.

    Raises:
        SettingsError: it holds another network, other cars, or weights alone; the message says
            what would fit.
    """
    if resume and "optimizer_states" not in checkpoint:
        raise SettingsError(
            "the checkpoint holds weights alone, no run to go on with: start a new run from it "
            "with --model.weights"
        )
    held = checkpoint.get("hyper_parameters", {})
    classes, here = held.get("class_names"), wanted["class_names"]
    if classes is not None and classes != here:
        other = next((a for a, b in zip(classes, here, strict=False) if a != b), None)
        raise SettingsError(
            f"the checkpoint knows {len(classes)} cars, the data has {len(here)}"
            f"{f', and {other!r} stands elsewhere or is missing' if other else ''}: take the data "
            "it was trained on, or start a new run from its weights with --model.weights"
        )
    if held.get("network", wanted["network"]) != wanted["network"]:
        raise SettingsError(
            f"the checkpoint is a {held['network']}, the settings say {wanted['network']}: take "
            "the configuration it was trained with"
        )


def check_schedule(held: Mapping[str, Any], here: Mapping[str, Any], checkpoint: str) -> None:
    """Refuse to go on with a run at another place of the schedule than it had come to.

    Args:
        held: the schedule of the run that the checkpoint is of: its `name`, its `lengths` in steps
            (see `Schedule.lengths`), and the run's `epochs` and `steps_per_epoch`.
        here: the same of the settings.
        checkpoint: where it is.

    Raises:
        SettingsError: it is another schedule, or one of other lengths; the message says what to
            give back.
    """
    if (held["name"], held["lengths"]) == (here["name"], here["lengths"]):
        return
    raise SettingsError(
        f"a resumed run keeps the lengths of its schedule, which these settings change: "
        f"{_described(held)} → {_described(here)}. Give the trainer.max_epochs, data.batch_size "
        "and model.schedule that it was started with, or start a new run from its weights with "
        f"--model.weights {checkpoint}"
    )


def _described(schedule: Mapping[str, Any]) -> str:
    lengths = ", ".join(f"{steps} {name}" for name, steps in schedule["lengths"].items())
    name = f"{schedule['name']} of {lengths}" if lengths else schedule["name"]
    return f"{name} ({schedule['epochs']:g} epochs of {schedule['steps_per_epoch']} steps)"
