"""Discriminative learning rates: who learns how fast, and who is decayed."""

from __future__ import annotations

import pytest
import torch

from lightning_train.networks import build_network
from lightning_train.optimization import parameter_groups


def test_every_parameter_is_in_exactly_one_group() -> None:
    network = build_network("resnet18", 3)
    groups = parameter_groups(network, lr=1.0, weight_decay=0.1, layer_decay=0.5)
    seen = [id(p) for group in groups for p in group["params"]]
    assert sorted(seen) == sorted(map(id, network.parameters()))
    assert len({group["name"] for group in groups}) == len(groups)


def test_rates_fall_from_the_head_to_the_photo() -> None:
    network = build_network("resnet18", 3)
    groups = parameter_groups(network, 1.0, 0.1, backbone_lr_scale=0.5, layer_decay=0.1)
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert rate[id(network.head.weight)] == 1.0
    for depth, expected in enumerate([0.5e-4, 0.5e-3, 0.5e-2, 0.5e-1, 0.5]):
        for parameter in network.stages[depth].parameters():
            assert rate[id(parameter)] == pytest.approx(expected)


def test_norms_and_biases_are_not_decayed() -> None:
    network = build_network("resnet18", 3)
    groups = parameter_groups(network, 1.0, 0.1)
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert decay[id(module.weight)] == decay[id(module.bias)] == 0
        elif isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            assert decay[id(module.weight)] == 0.1
    assert decay[id(network.head.bias)] == 0
