"""mixup and CutMix: the target says, to the pixel, what is in the photo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from toy_cars import write_devkit
from toy_training import toy_data, toy_model, toy_trainer

from lightning_train.callbacks import Augmentation, CutMixAugmentation, MixupAugmentation
from lightning_train.data import Batch

CLASSES = 24
# What a photo of each class is painted with, so that a mixture tells what is in it.
COLORS = torch.linspace(0.02, 0.98, CLASSES)


def painted(*augmentations: Augmentation, seed: int = 0) -> tuple[Tensor, Tensor]:
    """One photo of each class, augmented: images [C, 40, 56] and targets [C, C]."""
    torch.manual_seed(seed)
    images = COLORS[:, None, None, None].expand(-1, 3, 40, 56)
    batch: Batch = {"image": images, "label": torch.arange(CLASSES)}
    for augmentation in augmentations:
        augmentation.apply(batch, classes=CLASSES)
    assert torch.equal(batch["label"], torch.arange(CLASSES))
    return batch["image"][:, 0], batch["target"]


def test_a_cutmix_target_is_the_share_of_pixels() -> None:
    images, target = painted(CutMixAugmentation(probability=0.9))
    shares = (images[..., None] == COLORS).float().mean((1, 2))
    torch.testing.assert_close(target, shares, rtol=0, atol=1e-5)
    # Some boxes reach over the edge: of a whole box the pixels would have the photo's 40 : 56.
    pasted = images != COLORS[:, None, None]
    high, wide = pasted.any(2).sum(1), pasted.any(1).sum(1)
    assert ((high / 40 - wide / 56).abs() > 0.1).any()
    assert torch.equal(pasted.sum((1, 2)), high * wide)


MIXTURES: dict[str, Callable[[], Sequence[Augmentation]]] = {
    "mixup": lambda: [MixupAugmentation(alpha=1.0)],
    "cutmix": lambda: [CutMixAugmentation(probability=1.0)],
    "mixup, then cutmix": lambda: [MixupAugmentation(1.0), CutMixAugmentation(1.0, 0.7)],
    "cutmix, then mixup": lambda: [CutMixAugmentation(1.0, 0.7), MixupAugmentation(1.0, 0.7)],
}
each_mixture = pytest.mark.parametrize("name", MIXTURES)


@each_mixture
def test_the_target_of_a_mixture_is_what_the_photo_is_made_of(name: str) -> None:
    images, target = painted(*MIXTURES[name]())
    torch.testing.assert_close(images.mean((1, 2)), target @ COLORS, rtol=0, atol=1e-5)
    torch.testing.assert_close(target.sum(1), torch.ones(CLASSES))
    assert target.min() >= 0
    assert target.dtype == torch.float32


@each_mixture
def test_every_photo_draws_its_own_partner_and_share(name: str) -> None:
    _, target = painted(*MIXTURES[name]())
    assert len({round(float(share), 4) for share in target.diagonal()}) > CLASSES / 2
    assert len({int(row) for row in target.fill_diagonal_(0).argmax(1)}) > CLASSES / 3


@each_mixture
def test_the_seed_decides_the_mixture(name: str) -> None:
    images, target = painted(*MIXTURES[name](), seed=1)
    again, same = painted(*MIXTURES[name](), seed=1)
    other, _ = painted(*MIXTURES[name](), seed=2)
    assert torch.equal(images, again)
    assert torch.equal(target, same)
    assert not torch.equal(images, other)


@pytest.mark.parametrize("mixing", [MixupAugmentation, CutMixAugmentation])
def test_the_probability_is_that_of_each_photo(mixing: type[Augmentation]) -> None:
    def mixed(probability: float) -> float:
        shares = [
            painted(mixing(1.0, probability), seed=seed)[1].diagonal()  # type: ignore[call-arg]
            for seed in range(20)
        ]
        return float((torch.cat(shares) < 1).float().mean())

    assert mixed(0) == 0
    assert 0.2 < mixed(0.3) < 0.4
    assert mixed(1) > 0.85  # a photo may be its own partner, or get a box of no pixels


def test_alpha_decides_how_even_the_shares_are() -> None:
    def evenness(alpha: float) -> float:
        shares = torch.cat([painted(MixupAugmentation(alpha), seed=s)[1] for s in range(20)])
        return float((shares * (1 - shares)).sum(1).mean())

    assert evenness(0.1) < evenness(1.0) < evenness(10.0)


def test_an_existing_target_is_mixed_on() -> None:
    target = torch.tensor([[0.7, 0.3], [0.2, 0.8]])
    batch: Batch = {
        "image": torch.zeros(2, 3, 8, 8),
        "label": torch.tensor([0, 1]),
        "target": target.clone(),
    }
    torch.manual_seed(0)
    while torch.equal(batch["target"], target):  # until the two are each other's partners
        MixupAugmentation(1.0).apply(batch, classes=2)
    low, high = batch["target"].min(0).values, batch["target"].max(0).values
    assert (low >= target.min(0).values).all()
    assert (high <= target.max(0).values).all()
    torch.testing.assert_close(batch["target"].sum(1), torch.ones(2))


def test_training_learns_from_the_mixed_targets(tmp_path: Path) -> None:
    class Targets(pl.Callback):
        def __init__(self) -> None:
            self.losses: list[tuple[float, float]] = []

        def on_train_batch_end(
            self,
            trainer: pl.Trainer,
            model: pl.LightningModule,
            outputs: dict,
            batch: Batch,
            i: int,
        ) -> None:
            assert batch["target"].shape == (9, 3)
            with torch.no_grad():
                expected = model.loss(model(batch["image"]), batch["target"])
            self.losses.append((float(outputs["loss"].detach()), float(expected)))

    targets = Targets()
    trainer = toy_trainer(tmp_path, 1, MixupAugmentation(1.0), CutMixAugmentation(), targets)
    # Nothing moves, so that the loss can be computed a second time.
    model = toy_model(optimizer=lambda params: torch.optim.SGD(params, lr=0.0), schedule=None)
    trainer.fit(model, toy_data(write_devkit(tmp_path / "toy")))
    seen, expected = zip(*targets.losses, strict=True)
    assert len(set(seen)) == 6
    assert seen == pytest.approx(expected, rel=1e-4)
