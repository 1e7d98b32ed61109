"""A deeper ResNet begins as what a shallower one has learnt."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from lightning_train.networks import CarNetwork, build_network


def checkpoint(network: CarNetwork, path: Path) -> str:
    state = {f"network.{key}": value for key, value in network.state_dict().items()}
    torch.save({"state_dict": state}, path)
    return str(path)


def trained(name: str, photos: Tensor) -> CarNetwork:
    """Some steps from random: norms have statistics, and the head opinions."""
    network = build_network(name, classes=3)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    for _ in range(3):
        loss = torch.nn.functional.cross_entropy(network(photos), torch.arange(len(photos)) % 3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network


@pytest.mark.parametrize(
    ("shallow", "deep", "blocks"),
    [
        ("resnet18", "resnet34", [3, 4, 6, 3]),
        ("resnet50", "resnet101", [3, 4, 23, 3]),
        ("resnet50", "resnet152", [3, 8, 36, 3]),
    ],
)
@pytest.mark.parametrize("training", [False, True])
def test_the_deeper_network_says_the_same(
    shallow: str, deep: str, blocks: list[int], training: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    photos = torch.rand(6, 3, 64, 64)
    small = trained(shallow, photos)
    large = build_network(deep, 3, weights=checkpoint(small, tmp_path / "small.ckpt"))
    assert [len(stage) for stage in list(large.stages)[1:]] == blocks
    small.train(training)
    large.train(training)
    with torch.no_grad():
        assert torch.allclose(small(photos), large(photos), atol=1e-4)


def test_the_new_blocks_learn_from_the_first_step(tmp_path: Path) -> None:
    torch.manual_seed(0)
    photos = torch.rand(4, 3, 64, 64)
    start = checkpoint(trained("resnet18", photos), tmp_path / "small.ckpt")
    large = build_network("resnet34", 3, weights=start)
    new = large.stages[2][1].bn2  # the second of four, where there were two
    assert not new.weight.any()
    torch.nn.functional.cross_entropy(large(photos), torch.arange(4) % 3).backward()
    assert new.weight.grad.abs().max() > 0


def test_other_classes_get_a_head_of_their_own(tmp_path: Path) -> None:
    start = checkpoint(build_network("resnet18", 3), tmp_path / "small.ckpt")
    assert build_network("resnet34", 5, weights=start).head.out_features == 5


@pytest.mark.parametrize(
    ("had", "wanted"),
    [("resnet34", "resnet18"), ("resnet18", "resnet50"), ("resnet34", "resnet50")],
)
def test_what_is_no_shallower_kin_is_refused(had: str, wanted: str, tmp_path: Path) -> None:
    start = checkpoint(build_network(had, 3), tmp_path / "start.ckpt")
    with pytest.raises(ValueError, match=f"holds no {wanted}"):
        build_network(wanted, 3, weights=start)


@pytest.mark.parametrize("lost", ["stages.0.1.running_mean", "stages.3.1.bn1.weight"])
def test_weights_with_a_gap_do_not_grow(lost: str, tmp_path: Path) -> None:
    small = build_network("resnet18", classes=3)
    state = {f"network.{key}": value for key, value in small.state_dict().items() if key != lost}
    torch.save({"state_dict": state}, tmp_path / "small.ckpt")
    with pytest.raises(ValueError, match="holds no resnet34"):
        build_network("resnet34", 3, weights=str(tmp_path / "small.ckpt"))
