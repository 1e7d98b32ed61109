"""Parameter groups: discriminative learning rates, weight decay where it belongs."""

from __future__ import annotations

from typing import Any

from torch import nn

from lightning_train.networks import CarNetwork

__all__ = ["parameter_groups"]


def parameter_groups(
    network: CarNetwork,
    lr: float,
    weight_decay: float,
    backbone_lr_scale: float = 1.0,
    layer_decay: float = 1.0,
) -> list[dict[str, Any]]:
    """Groups for an optimiser, from the photo's side to the head.

    Pretrained weights want smaller steps than a new head, and the more so the further they are
    from it (Howard and Ruder 2018, arXiv 1801.06146). Biases and norms get no weight decay
    (He et al. 2019, arXiv 1812.01187).

    Args:
        network: stages and head.
        lr: of the head.
        weight_decay: of the weights that have any.
        backbone_lr_scale: rate of the last stage as a fraction of the head's.
        layer_decay: rate of each stage as a fraction of the next one's; 1 gives the trunk one rate.
    """
    layers: dict[str, tuple[float, list[nn.Parameter]]] = {}
    last = len(network.stages) - 1
    for depth, stage in enumerate(network.stages):
        name = "trunk" if layer_decay == 1 else f"stage{depth}"
        scale = backbone_lr_scale * layer_decay ** (last - depth)
        layers.setdefault(name, (scale, []))[1].extend(stage.parameters())
    layers["head"] = (1.0, list(network.head.parameters()))
    groups = []
    for name, (scale, parameters) in layers.items():
        for suffix, decay in (("", weight_decay), (" (norm, bias)", 0.0)):
            chosen = [p for p in parameters if (p.ndim > 1) == (not suffix)]
            if chosen:
                group = {"params": chosen, "lr": lr * scale, "weight_decay": decay}
                groups.append(group | {"name": name + suffix})
    return groups
