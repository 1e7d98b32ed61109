"""A trained network as a folder of safetensors: a start for other runs, small enough for Git.

`config.json` says what the network is, as a checkpoint's hyperparameters do. The weights are in
`model.safetensors` or, where that would be too large, in several files as Hugging Face lays them
out: `model-00001-of-00002.safetensors` …, and `model.safetensors.index.json`, which says what is
in which.

The weights of convolutions and of the head, 97 % of all numbers or more, are stored as float16:
half the size, and logits that move by little. Of EfficientNet-Lite0 and 2, trained, on 64
validation photos: by 0.3 and 0.5 % of their spread, and no answer changed; of ResNets, a test
measures it.
Everything of one dimension stays float32: it costs next to nothing, its error would be that of a
whole channel, and the variances of batch norms reach below float16's range. Counters stay integers.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

if TYPE_CHECKING:
    from lightning_train.classifier import CarClassifier

__all__ = [
    "SETTINGS",
    "SavedNetwork",
    "has_the_form",
    "is_weights",
    "read_weights",
    "refuse_loss",
    "some",
    "weight_files",
    "write_weights",
]

# What the network is: a checkpoint's hyperparameters, and `config.json` but for its format_version.
SETTINGS = ("network", "class_names", "size", "mean", "std")
_FORMAT = 1
_CONFIG, _WHOLE, _INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_PLAIN_NAME = re.compile(r"[\w-][\w.-]*\.safetensors")


@dataclass(frozen=True, slots=True)
class SavedNetwork:
    """A trained network as it was saved.

    Attributes:
        settings: those of `SETTINGS` that are known; of a folder, all of them.
        state: the weights, as `CarNetwork.state_dict` names them.
    """

    settings: dict[str, Any]
    state: dict[str, Tensor]


def write_weights(model: CarClassifier, folder: str | Path, shard_mb: float = 90) -> None:
    """Write a network's weights and settings, whole or not at all.

    Args:
        model: whose network it is.
        folder: where to; an earlier one of weights is replaced.
        shard_mb: how much of the weights one file may hold, in MB (10⁶ bytes).

    Raises:
        ValueError: the folder holds something else, the weights are not finite as float16, or one
            of them alone is larger than `shard_mb`.
    """
    folder = Path(folder).resolve()
    refuse_loss(folder)
    stored = {key: _stored(key, value) for key, value in model.network.state_dict().items()}
    files = _split(stored, shard_mb)
    config = {"format_version": _FORMAT, **{name: model.hparams[name] for name in SETTINGS}}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        staged, old = Path(temporary) / "new", Path(temporary) / "old"
        staged.mkdir()
        _write_json(staged / _CONFIG, config)
        for name, tensors in files.items():
            # As bytes: safetensors' own way to a file makes one that only its owner can read.
            (staged / name).write_bytes(save(tensors, metadata={"format": "pt"}))
        if len(files) > 1:
            size = sum(tensor.nbytes for tensor in stored.values())
            places = {key: name for name, tensors in files.items() for key in tensors}
            index = {"metadata": {"total_size": size}, "weight_map": places}
            _write_json(staged / _INDEX, index)
        try:
            if folder.exists():
                folder.rename(old)
            staged.rename(folder)
        except BaseException:
            if old.exists() and not folder.exists():
                old.rename(folder)
            raise


def read_weights(path: str | Path) -> SavedNetwork:
    """Read what `write_weights` wrote; all weights are float32 then.

    Args:
        path: the folder, its index, or a single file of weights beside its `config.json`.

    Raises:
        ValueError: a file is missing, damaged, or of something else; the message says which.
    """
    start = _start(Path(path))
    settings = _read_settings(start.with_name(_CONFIG))
    state: dict[str, Tensor] = {}
    for file, keys in _shards(start).items():
        tensors = _read_tensors(file)
        if lacking := (keys or set()) - tensors.keys():
            raise ValueError(f"{file} lacks {some(lacking)}, which {start.name} says it holds")
        if keys is not None and (unknown := tensors.keys() - keys):
            raise ValueError(f"{file} holds {some(unknown)}, of which {start.name} does not know")
        for key, tensor in tensors.items():
            state[key] = tensor.float() if tensor.is_floating_point() else tensor
    return SavedNetwork(settings, state)


def has_the_form(path: Path) -> bool:
    """Whether `read_weights` is the one to ask: a folder, or a file named as those in it are."""
    return path.is_dir() or path.suffix in (".json", ".safetensors")


def is_weights(path: Path) -> bool:
    """Whether `write_weights` wrote it, as far as its `config.json` tells."""
    if not has_the_form(path):
        return False
    try:
        config = _read_json((path if path.is_dir() else path.parent) / _CONFIG)
    except (OSError, ValueError):
        return False
    return "format_version" in config


def weight_files(path: str | Path) -> list[Path]:
    """All files of the weights that `read_weights` reads, by name.

    Raises:
        ValueError: see `read_weights`.
    """
    start = _start(Path(path))
    return sorted({start.with_name(_CONFIG), start, *_shards(start)})


def some(names: Collection[str]) -> str:
    """The first of some names, and how many others there are."""
    others = len(names) - 1
    return min(names) + (f" and {others} more" if others else "")


def refuse_loss(folder: Path) -> None:
    """Refuse to replace anything that is no weights of ours.

    Raises:
        ValueError: the folder holds something else.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file: name a folder for the weights")
    names = [entry.name for entry in folder.iterdir()]
    if names and not is_weights(folder):
        raise ValueError(
            f"{folder} exists and holds no weights of this trainer: name a new folder for them"
        )
    ours = (_CONFIG, _WHOLE, _INDEX)
    others = [name for name in names if name not in ours and not _SHARD.fullmatch(name)]
    if others:
        raise ValueError(
            f"{folder} would be replaced, but holds {some(others)} beside its weights: move that "
            "elsewhere, or name a new folder"
        )


def _stored(key: str, value: Tensor) -> Tensor:
    """A weight as it is written, on the CPU."""
    if not value.is_floating_point():
        return value.cpu().contiguous()
    stored = value.detach().to("cpu", torch.float16 if value.ndim > 1 else torch.float32)
    if not stored.isfinite().all():
        dtype = str(stored.dtype).removeprefix("torch.")
        raise ValueError(
            f"{key} goes up to {value.abs().max():.3g}, which {dtype} cannot hold: such a network "
            "has diverged; take an earlier checkpoint"
        )
    return stored.contiguous()


def _split(tensors: Mapping[str, Tensor], shard_mb: float) -> dict[str, dict[str, Tensor]]:
    """Files by name, each filled up before the next one, in the network's order."""
    key, largest = max(tensors.items(), key=lambda item: item[1].nbytes)
    if largest.nbytes > shard_mb * 1e6:
        raise ValueError(
            f"shard_mb {shard_mb} is too small: {key} alone takes {largest.nbytes / 1e6:.1f} MB"
        )
    shards: list[dict[str, Tensor]] = [{}]
    room = shard_mb * 1e6
    for key, tensor in tensors.items():
        if tensor.nbytes > room:
            shards.append({})
            room = shard_mb * 1e6
        shards[-1][key] = tensor
        room -= tensor.nbytes
    if len(shards) == 1:
        return {_WHOLE: shards[0]}
    names = (f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1))
    return dict(zip(names, shards, strict=True))


def _start(path: Path) -> Path:
    """Where to begin: the index, or the only file of weights."""
    if path.is_dir():
        found = [path / name for name in (_WHOLE, _INDEX) if (path / name).is_file()]
        if not found:
            raise ValueError(f"{path} holds no weights: neither {_WHOLE} nor {_INDEX} is there")
        if len(found) > 1:
            raise ValueError(f"{path} holds both {_WHOLE} and {_INDEX}: delete the wrong one")
        return found[0]
    if not path.is_file():
        raise ValueError(f"no weights {path}: export some with 'make export-weights'")
    if _SHARD.fullmatch(path.name):
        raise ValueError(f"{path} is one file of several: give their folder, {path.parent}")
    return path


def _shards(start: Path) -> dict[Path, set[str] | None]:
    """The files of weights, and what each shall hold; None where nothing says so."""
    if start.suffix != ".json":
        return {start: None}
    places = _read_json(start).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ValueError(f"{start} is no index of weights: it has no weight_map")
    shards: dict[Path, set[str] | None] = {}
    for key, name in places.items():
        if not isinstance(name, str) or not _PLAIN_NAME.fullmatch(name):
            raise ValueError(
                f"{start} is refused: it places {key} in {name!r}, which is no .safetensors file "
                "of its own folder"
            )
        keys = shards.setdefault(start.with_name(name), set())
        assert keys is not None  # noqa: S101  (as set above)
        keys.add(key)
    return shards


def _read_settings(config: Path) -> dict[str, Any]:
    if not config.is_file():
        raise ValueError(f"{config} is missing, which says what the weights beside it are")
    content = _read_json(config)
    version = content.get("format_version")
    if version != _FORMAT:
        raise ValueError(
            f"{config} has the format_version {version!r}, this trainer reads {_FORMAT}: take one "
            "that is as new as the weights"
        )
    for name in SETTINGS:
        if not _is_valid(name, content.get(name)):
            raise ValueError(f"{config}: {name} is missing or wrong ({content.get(name)!r})")
    return {name: content[name] for name in SETTINGS}


def _is_valid(name: str, value: object) -> bool:
    """Whether a setting is of its type."""
    if name == "network":
        return isinstance(value, str)
    if name == "size":
        return type(value) is int and value > 0
    if not isinstance(value, list):
        return False
    if name == "class_names":
        return len(value) > 0 and all(isinstance(one, str) for one in value)
    return len(value) == 3 and all(isinstance(one, int | float) for one in value)


def _read_tensors(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise ValueError(f"{file} is missing: copy all files of the weights")
    try:
        return load(file.read_bytes())
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged ({error}): copy it again") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): copy it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged (it holds no object): copy it again")
    return content


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, ensure_ascii=False, indent=2)
    path.write_text(text + "\n", encoding="utf-8")
