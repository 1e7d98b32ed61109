"""What a network can start from: a checkpoint, a folder of float weights, published weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor, nn

from lightning_train.float_weights import (
    SETTINGS,
    SavedNetwork,
    has_the_form,
    read_weights,
    some,
    weight_files,
)
from lightning_train.growth import grown

__all__ = ["load_published", "load_whole", "read_saved", "sha256", "start_from"]

_PREFIX = "network."
_HEAD = "head."


def read_saved(path: Path) -> SavedNetwork | None:
    """Read a network that this trainer trained; None if the file is one of published weights.

    Raises:
        ValueError: there is no such file or folder, or it is damaged.
    """
    if has_the_form(path):
        return read_weights(path)
    content = _read_torch(path)
    if "state_dict" not in content:
        return None
    held = content.get("hyper_parameters", {})
    state = {
        key.removeprefix(_PREFIX): value
        for key, value in content["state_dict"].items()
        if key.startswith(_PREFIX)
    }
    return SavedNetwork({name: held[name] for name in SETTINGS if name in held}, state)


def sha256(path: Path) -> str:
    """The SHA-256 of a checkpoint; of a folder, that of its files one after another, by name."""
    digest = hashlib.sha256()
    for file in weight_files(path) if has_the_form(path) else [path]:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def load_whole(network: nn.Module, saved: SavedNetwork, path: Path) -> None:
    """Load all weights, head included.

    Args:
        network: a `CarNetwork`.
        saved: its weights.
        path: where they are from.

    Raises:
        ValueError: they are others, or not all.
    """
    if wrong := _misfit(network.state_dict(), saved.state):
        raise ValueError(f"{path} holds no whole {saved.settings['network']}: {wrong}")
    network.load_state_dict(saved.state)


def start_from(
    network: nn.Module,
    name: str,
    saved: SavedNetwork,
    path: Path,
    class_names: Sequence[str] | None = None,
) -> None:
    """Load the trunk, of a shallower ResNet too (see `growth.py`), and the head where it fits.

    For other classes than the saved ones, or the same in another order, each that has the name of
    a saved one starts with that one's row of the head, the others with fresh rows; a line says how
    many. Where either knows no names, the head is loaded if it has as many classes.

    Args:
        network: a `CarNetwork`.
        name: what it is called.
        saved: the weights.
        path: where they are from.
        class_names: of the network's classes, in order; None if they have no names.

    Raises:
        ValueError: they are of another network, or not all; the message says which would fit.
    """
    own, state, held = network.state_dict(), saved.state, saved.settings.get("network")
    if held != name:  # or weights with a gap would pass for those of a shallower one
        state = grown(state, network) or state
    if wrong := _misfit(_trunk(own), _trunk(state)):
        if held == name:
            raise ValueError(f"{path} holds no whole {name}: {wrong}")
        trained = f", {held}" if held else ""
        raise ValueError(f"{path} holds no {name}: give the network it was trained with{trained}")
    known = saved.settings.get("class_names")
    if class_names is not None and known is not None and list(known) != list(class_names):
        state = _trunk(state) | _rows_by_name(own, state, known, class_names, path)
    elif _misfit(own, state):
        state = _trunk(state)
    network.load_state_dict(state, strict=False)


def load_published(net: nn.Module, path: Path, name: str) -> None:
    """Load weights under the library's own names; the head for other classes stays behind.

    Args:
        net: the library's network.
        path: the file.
        name: what the network is called.

    Raises:
        ValueError: the file is missing or damaged, or of another network.
    """
    state = _read_torch(path)
    own = net.state_dict()
    fits = {key: value for key, value in state.items() if key in own}
    head = {key for key in own if key.startswith(("fc.", "_fc."))}
    wrong = [key for key in own if key not in head and key not in fits]
    wrong += [key for key in fits if key not in head and fits[key].shape != own[key].shape]
    # Old files do not count batches.
    wrong = [key for key in wrong if not key.endswith("num_batches_tracked")]
    if wrong or set(state) - set(own):
        raise ValueError(f"weights: {path} holds no {name}: give the weights of the network named")
    net.load_state_dict({k: v for k, v in fits.items() if k not in head}, strict=False)


def _rows_by_name(
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    known: Sequence[str],
    wanted: Sequence[str],
    path: Path,
) -> dict[str, Tensor]:
    """The head: its own fresh rows, but for the classes of a saved one's name; says how many."""
    row_of = {name: row for row, name in enumerate(known)}
    found = [(row, row_of[name]) for row, name in enumerate(wanted) if name in row_of]
    head = {key: value.clone() for key, value in own.items() if key.startswith(_HEAD)}
    # A head that is missing or of some other shape has no rows to take.
    shapes = {key: (len(known), *fresh.shape[1:]) for key, fresh in head.items()}
    if any(key not in state or state[key].shape != shape for key, shape in shapes.items()):
        found = []
    for key, rows in head.items():
        for here, there in found:
            rows[here] = state[key][there]
    rank_zero_only(print)(
        f"{path}: of {len(wanted)} classes, {len(found)} are known there by name and start from "
        "what it has learnt of them; the others start anew"
    )
    return head


def _read_torch(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(
            f"weights: no file {path}; give imagenet, a checkpoint, a folder of float weights, a "
            "file of published weights, or null to start from random ones"
        )
    refusal = f"{path} is no checkpoint, nor other weights of PyTorch"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{refusal} ({reason})") from error
    if not isinstance(content, dict):
        raise ValueError(refusal)
    return content


def _trunk(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if not key.startswith(_HEAD)}


def _misfit(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """What is wrong with weights for a network; empty if nothing is."""
    if lacking := own.keys() - state.keys():
        return f"{some(lacking)} is missing"
    if unknown := state.keys() - own.keys():
        return f"{some(unknown)} is superfluous"
    for key, value in own.items():
        if value.shape != state[key].shape:
            return f"{key} is {list(state[key].shape)}, not {list(value.shape)}"
    return ""
