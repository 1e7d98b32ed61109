"""Losses for classes [N] as well as for mixed targets [N, C], and for unequal class sizes.

Mixup, CutMix and label smoothing turn a class into a distribution p over the classes; every loss
here is the sum over the classes of p times what the loss says of that class, so that it equals the
published formula for an unmixed label.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["ClassBalancedLoss", "CrossEntropy", "FocalLoss", "LogitAdjustedLoss", "Loss"]


class Loss(nn.Module, ABC):
    """Mean over the batch of a loss between logits and (smoothed, perhaps mixed) targets.

    Args:
        label_smoothing: weight of the uniform distribution in the target.
    """

    def __init__(self, label_smoothing: float = 0.1) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing is a share, 0…1; got {label_smoothing}")
        self.label_smoothing = label_smoothing

    def set_class_counts(self, counts: Sequence[int]) -> None:
        """Learn how many training photos each class has."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Scalar loss.

        Args:
            logits: [N, C].
            target: class ids, int64 [N], or distributions, float [N, C].
        """
        # A bf16 log-sum-exp over hundreds of classes is too coarse.
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        classes = logits.shape[1]
        if target.ndim == 1:
            target = nn.functional.one_hot(target, classes).to(logits.dtype)
        if self.label_smoothing:
            target = target * (1 - self.label_smoothing) + self.label_smoothing / classes
        return self.per_photo(logits, target).mean()

    @abstractmethod
    def per_photo(self, logits: Tensor, target: Tensor) -> Tensor:
        """Losses [N] of logits [N, C] and distributions [N, C]."""


class CrossEntropy(Loss):
    """Cross-entropy."""

    def per_photo(self, logits: Tensor, target: Tensor) -> Tensor:
        """Losses [N]."""
        return -(target * logits.log_softmax(1)).sum(1)


class FocalLoss(Loss):
    """Focal loss: photos already answered well count less (Lin et al. 2017, arXiv 1708.02002).

    Args:
        gamma: how much less; 0 is cross-entropy.
        label_smoothing: weight of the uniform distribution in the target.
    """

    def __init__(self, gamma: float = 2.0, label_smoothing: float = 0.0) -> None:
        super().__init__(label_smoothing)
        self.gamma = gamma

    def per_photo(self, logits: Tensor, target: Tensor) -> Tensor:
        """Losses [N]."""
        log_probability = logits.log_softmax(1)
        # Not 1 - exp(log p) to a power as it stands: its slope is infinite at p = 1, gamma < 1.
        doubt = (1 - log_probability.exp()).clamp_min(1e-6)
        return -(target * doubt**self.gamma * log_probability).sum(1)


class ClassBalancedLoss(Loss):
    """Classes weigh by the inverse of their effective number of photos (Cui et al. 2019).

    The effective number of n photos is (1 - beta^n) / (1 - beta), arXiv 1901.05555; the weights
    are scaled to a mean of 1 over the classes.

    Args:
        beta: 0 weighs all classes alike, towards 1 by the inverse of their size.
        gamma: of the focal factor; 0 for plain cross-entropy.
        label_smoothing: weight of the uniform distribution in the target.
    """

    def __init__(
        self, beta: float = 0.99, gamma: float = 0.0, label_smoothing: float = 0.1
    ) -> None:
        super().__init__(label_smoothing)
        if not 0 <= beta < 1:
            raise ValueError(f"beta lies in 0…1, without 1; got {beta}")
        self.beta = beta
        self._unweighted = FocalLoss(gamma, label_smoothing=0.0)
        self.register_buffer("weights", None, persistent=False)

    def set_class_counts(self, counts: Sequence[int]) -> None:
        """Weights from class sizes; a class without photos gets the weight of one photo."""
        photos = torch.tensor(counts, dtype=torch.float64).clamp_min(1)
        weights = (1 - self.beta) / (1 - self.beta**photos)
        self.weights = (weights / weights.mean()).float()

    def per_photo(self, logits: Tensor, target: Tensor) -> Tensor:
        """Losses [N]."""
        if self.weights is None:
            raise ValueError("ClassBalancedLoss needs class sizes: give model.class_counts")
        return self._unweighted.per_photo(logits, target * self.weights)


class LogitAdjustedLoss(Loss):
    """Cross-entropy of logits shifted by tau · log of the class's share (Menon et al. 2021).

    Training with the shift and answering without it puts rare classes on an equal footing,
    arXiv 2007.07314.

    Args:
        tau: strength; 1 is the paper's choice.
        label_smoothing: weight of the uniform distribution in the target.
    """

    def __init__(self, tau: float = 1.0, label_smoothing: float = 0.1) -> None:
        super().__init__(label_smoothing)
        self.tau = tau
        self.register_buffer("shift", None, persistent=False)

    def set_class_counts(self, counts: Sequence[int]) -> None:
        """Shifts from class sizes; a class without photos gets the shift of one photo."""
        photos = torch.tensor(counts, dtype=torch.float32).clamp_min(1)
        self.shift = self.tau * (photos / photos.sum()).log()

    def per_photo(self, logits: Tensor, target: Tensor) -> Tensor:
        """Losses [N]."""
        if self.shift is None:
            raise ValueError("LogitAdjustedLoss needs class sizes: give model.class_counts")
        return -(target * (logits + self.shift).log_softmax(1)).sum(1)
