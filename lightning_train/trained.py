"""Trained networks again: a checkpoint, or float weights, as a classifier; the one as the other.

Apart from `export.py`, since machines that only train have no serving engine installed.
"""

from __future__ import annotations

from pathlib import Path

from lightning_train.classifier import CarClassifier
from lightning_train.float_weights import weight_files, write_weights
from lightning_train.starting_weights import load_whole, read_saved

__all__ = ["export_weights", "load_classifier"]


def load_classifier(checkpoint: str | Path) -> CarClassifier:
    """Load a training checkpoint, or a folder of float weights, for inference.

    Raises:
        ValueError: it is missing, damaged, or not of this trainer.
    """
    path = Path(checkpoint)
    if not path.exists():
        raise ValueError(f"no checkpoint {path}: train one with 'make train', or mend the path")
    saved = read_saved(path)
    if saved is None or not {"network", "class_names"} <= saved.settings.keys():
        raise ValueError(f"{path} is no checkpoint of this trainer")
    model = CarClassifier(**saved.settings, weights=None)
    load_whole(model.network, saved, path)
    return model.eval()


def export_weights(checkpoint: Path, out: Path | None = None, shard_mb: int = 90) -> None:
    """Write a checkpoint's weights in half precision, as a folder of safetensors.

    `fit` starts from such a folder with --model.weights, `archive` packages it.

    Args:
        checkpoint: what `fit` wrote, e.g. runs/NAME/checkpoints/best.ckpt.
        out: the folder to write, where earlier weights are replaced; by default
            model_store/weights/ and the network's name.
        shard_mb: how much of the weights one file may hold, in MB.
    """
    model = load_classifier(checkpoint)
    out = out or Path("model_store/weights") / model.hparams["network"]
    write_weights(model, out, shard_mb)
    files = weight_files(out)
    size = sum(file.stat().st_size for file in files) / 1e6
    network, classes = model.hparams["network"], len(model.class_names)
    print(f"{out}: {network} of {classes} classes, {len(files)} files, {size:.1f} MB")
