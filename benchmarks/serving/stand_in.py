"""The one network that every contestant serves, as float weights and as an archive.

Speed does not depend on what the weights have learnt, so where the archive at hand holds another
network, one is made of random weights: the figures are those of a trained one.
"""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from handler.archive import extract_archive
from handler.decode import decode_photo
from handler.engine import OpenVinoEngine
from handler.labels import stanford_cars_labels, write_labels
from handler.manifest import ModelManifest
from handler.preprocessing import Preprocessing
from lightning_train.export import class_weights, write_openvino
from lightning_train.networks import CarNetwork, build_network
from lightning_train.packaging import MODEL_NAME, package

__all__ = ["Contest", "prepare"]

CLASSES = 196


@dataclass(frozen=True, slots=True)
class Contest:
    """What is served.

    Attributes:
        archive: what TorchServe gets.
        directory: the same, unpacked, for the ceiling and for LitServe with the same engine.
        weights: the state of `build_network(network, CLASSES)`, for eager torch.
        network: e.g. "resnet152".
        size: side of its input in pixels.
        stand_in: whether the weights are random.
    """

    archive: Path
    directory: Path
    weights: Path
    network: str
    size: int
    stand_in: bool


def prepare(
    archive: Path, network: str, size: int, photos: Sequence[bytes], cache: Path
) -> Contest:
    """Take the archive if it holds the network, else build one that does.

    The built one has no detector and no locator of cars: it looks at each photo once.

    Args:
        archive: used as it is where it holds the network at this size.
        network: one of `lightning_train.networks.NETWORKS`.
        size: side of the network's input in pixels.
        photos: files that set BatchNorm's statistics and the ranges of the 8-bit numbers.
        cache: keeps what takes long; the handler's code is not part of that.
    """
    with extract_archive(archive) as unpacked:
        manifest = ModelManifest.read(unpacked / "model.json")
    is_it = manifest.network == network and manifest.preprocessing.size == size
    manifest = replace(
        manifest,
        engine="openvino",
        network=network,
        preprocessing=replace(manifest.preprocessing, size=size),
        metrics={},
        provenance={"command": "make bench", "weights": "random: for measuring speed only"},
    )
    model = _cached_model(manifest, photos, cache)
    served = cache / "served"
    shutil.rmtree(served, ignore_errors=True)
    if not is_it:
        archive = served / f"{MODEL_NAME}.mar"
        package(model / "archive", "model.xml", manifest.version, archive)
    directory = served / "unpacked"
    with zipfile.ZipFile(archive) as content:
        content.extractall(directory)
    return Contest(archive, directory, model / "weights.pt", network, size, not is_it)


def _cached_model(manifest: ModelManifest, photos: Sequence[bytes], cache: Path) -> Path:
    """The folder of the network's files, built unless an earlier run has left the same."""
    made_with = [f"{name} {version(name)}" for name in ("torch", "openvino", "nncf")]
    made_with += [manifest.network, str(manifest.to_dict())]
    key = hashlib.sha256("\n".join(made_with).encode()).hexdigest()[:12]
    finished = cache / f"{manifest.network}-{key}"
    if finished.is_dir():
        return finished
    cache.mkdir(parents=True, exist_ok=True)
    print(f"building a {manifest.network} to serve (once): quantising it takes a minute or two …")
    with TemporaryDirectory(dir=cache) as temporary:
        model = Path(temporary) / "model"
        model.mkdir()
        _build_model(manifest, photos, model)
        model.rename(finished)
    return finished


def _build_model(manifest: ModelManifest, photos: Sequence[bytes], model: Path) -> None:
    preprocessing = manifest.preprocessing
    pixels = np.stack(
        [preprocessing(decode_photo(photo, min_side=preprocessing.size).image) for photo in photos]
    )
    torch.manual_seed(0)
    network = build_network(manifest.network, CLASSES)
    _settle_batchnorm(network, pixels, preprocessing)
    torch.save(network.state_dict(), model / "weights.pt")
    content = model / "archive"
    content.mkdir()
    write_openvino(network, preprocessing, content, pixels)
    images = pixels[:4]
    logits = OpenVinoEngine(content / "model.xml").run(images).logits
    np.savez_compressed(content / "selfcheck.npz", images=images, logits=logits)
    np.savez(content / "classifier.npz", weights=class_weights(network))
    replace(manifest, selfcheck_atol=float(logits.std())).write(content / "model.json")
    write_labels(stanford_cars_labels(), content / "labels.csv")


def _settle_batchnorm(
    network: CarNetwork, pixels: NDArray[np.uint8], preprocessing: Preprocessing
) -> None:
    """Give BatchNorm the statistics of photos: activations grow without bound through 150 layers
    otherwise, and numbers out of range are computed at another speed.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the plain mean over the batches
    mean, std = (torch.tensor(it).view(3, 1, 1) for it in (preprocessing.mean, preprocessing.std))
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    network.train()
    with torch.inference_mode():
        network((images - mean) / std)
    network.eval()
