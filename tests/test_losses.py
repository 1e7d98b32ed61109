"""Every loss learns, and says what its paper says."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional
from toy_cars import TOY_CLASSES
from toy_training import toy_model

from lightning_train.losses import (
    ClassBalancedLoss,
    CrossEntropy,
    FocalLoss,
    LogitAdjustedLoss,
    Loss,
)

COUNTS = [100, 10, 1]
LOSSES = [
    CrossEntropy(label_smoothing=0.1),
    FocalLoss(gamma=2),
    FocalLoss(gamma=0.5),
    ClassBalancedLoss(label_smoothing=0),
    ClassBalancedLoss(beta=0.9, gamma=1, label_smoothing=0),
    LogitAdjustedLoss(label_smoothing=0),
]


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(8, 3, generator=generator), torch.tensor([0, 1, 2, 0, 0, 1, 0, 0])


def name(loss: Loss) -> str:
    return type(loss).__name__


@pytest.mark.parametrize("loss", LOSSES, ids=name)
def test_one_batch_can_be_learnt_by_heart(loss: Loss) -> None:
    torch.manual_seed(0)
    model = toy_model(loss=loss, class_counts=COUNTS).train()
    images = torch.randint(0, 255, (6, 3, 32, 32), dtype=torch.uint8)
    labels = torch.tensor([0, 1, 2, 2, 1, 0])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    first = last = model.loss(model(images), labels)
    for _ in range(40):
        optimizer.zero_grad()
        last = model.loss(model(images), labels)
        last.backward()
        optimizer.step()
    assert last < 0.6 * first
    assert (model(images).argmax(1) == labels).all()


@pytest.mark.parametrize("loss", LOSSES, ids=name)
def test_a_mixed_target_lies_between_its_parts(
    loss: Loss, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    logits, labels = batch
    loss.set_class_counts(COUNTS)
    other = labels.roll(1)
    first, second = (functional.one_hot(y, 3).float() for y in (labels, other))
    assert loss(logits, labels) == pytest.approx(float(loss(logits, first)))
    mixed = loss(logits, 0.3 * first + 0.7 * second)
    assert mixed == pytest.approx(float(0.3 * loss(logits, labels) + 0.7 * loss(logits, other)))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_torchs(
    smoothing: float, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    logits, labels = batch
    expected = functional.cross_entropy(logits, labels, label_smoothing=smoothing)
    assert CrossEntropy(smoothing)(logits, labels) == pytest.approx(float(expected))
    assert FocalLoss(0, smoothing)(logits, labels) == pytest.approx(float(expected))


def test_focal_loss_is_the_papers_formula(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = batch
    p = logits.softmax(1)[torch.arange(8), labels]
    expected = (-((1 - p) ** 2) * p.log()).mean()
    assert FocalLoss(gamma=2)(logits, labels) == pytest.approx(float(expected))


def test_class_balanced_weights_are_inverse_effective_numbers(
    batch: tuple[torch.Tensor, torch.Tensor],
) -> None:
    logits, labels = batch
    loss = ClassBalancedLoss(beta=0.9, label_smoothing=0)
    loss.set_class_counts(COUNTS)
    effective = torch.tensor([(1 - 0.9**n) / (1 - 0.9) for n in COUNTS])
    weights = (1 / effective) / (1 / effective).mean()
    each = functional.cross_entropy(logits, labels, reduction="none")
    assert loss(logits, labels) == pytest.approx(float((weights[labels] * each).mean()))
    loss = ClassBalancedLoss(beta=0, label_smoothing=0)
    loss.set_class_counts(COUNTS)
    assert loss(logits, labels) == pytest.approx(float(each.mean()))


def test_logit_adjustment_shifts_by_the_log_of_the_share(
    batch: tuple[torch.Tensor, torch.Tensor],
) -> None:
    logits, labels = batch
    loss = LogitAdjustedLoss(tau=1, label_smoothing=0)
    loss.set_class_counts(COUNTS)
    shift = torch.tensor(COUNTS).float().div(111).log()
    expected = functional.cross_entropy(logits + shift, labels)
    assert loss(logits, labels) == pytest.approx(float(expected))


@pytest.mark.parametrize("loss", [ClassBalancedLoss(), LogitAdjustedLoss()], ids=name)
def test_a_loss_that_needs_class_sizes_says_so(loss: Loss) -> None:
    with pytest.raises(ValueError, match="class_counts"):
        loss(torch.zeros(2, 3), torch.tensor([0, 1]))


def test_a_class_without_photos_does_not_break_the_loss() -> None:
    for loss in LOSSES:
        loss.set_class_counts([5, 0, 3])
        assert torch.isfinite(loss(torch.zeros(2, len(TOY_CLASSES)), torch.tensor([0, 2])))


@pytest.mark.parametrize("loss", [FocalLoss(0.5), FocalLoss(2), ClassBalancedLoss(gamma=0.5)])
def test_a_perfectly_sure_network_has_finite_slopes(loss: Loss) -> None:
    loss.set_class_counts(COUNTS)
    logits = torch.tensor([[200.0, 0, 0], [-200.0, 0, 0]], requires_grad=True)
    loss(logits, torch.tensor([0, 0])).backward()
    assert torch.isfinite(logits.grad).all()  # type: ignore[arg-type]
