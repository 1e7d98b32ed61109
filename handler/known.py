"""How sure is it that the car is one of the models that the network knows?

Confidence alone does not say: the softmax shares everything out among the known models. Which of
these scores tells best between right answers on the one side and wrong answers and unknown models
on the other depends on the network, so `make archive` measures them all and keeps the best.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["SCORES", "KnownScore", "softmax"]

FloatArray = NDArray[np.float64]


def softmax(scores: NDArray[np.floating[Any]]) -> FloatArray:
    """Probabilities [..., C] of scores [..., C]."""
    exponentials = np.exp((scores - scores.max(axis=-1, keepdims=True)).astype(np.float64))
    probabilities: FloatArray = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return probabilities


def _max_probability(logits: FloatArray) -> FloatArray:
    """The calibrated confidence (Hendrycks and Gimpel 2017, arXiv 1610.02136)."""
    result: FloatArray = softmax(logits).max(axis=-1)
    return result


def _negative_entropy(logits: FloatArray) -> FloatArray:
    """In nats: 0 where all probability is on one class, -log(C) where it is spread evenly."""
    probabilities = softmax(logits)
    result: FloatArray = (probabilities * np.log(np.maximum(probabilities, 1e-30))).sum(axis=-1)
    return result


def _energy(logits: FloatArray) -> FloatArray:
    """The negative free energy (Liu et al. 2020, arXiv 2010.03759)."""
    highest = logits.max(axis=-1)
    result: FloatArray = highest + np.log(np.exp(logits - highest[..., None]).sum(axis=-1))
    return result


def _max_logit(logits: FloatArray) -> FloatArray:
    """The highest score itself (Hendrycks et al. 2022, arXiv 1911.11132)."""
    result: FloatArray = logits.max(axis=-1)
    return result


def _margin(logits: FloatArray) -> FloatArray:
    """How far the best class is ahead of the second."""
    two = np.sort(logits, axis=-1)[..., -2:]
    result: FloatArray = two[..., -1] - two[..., 0]
    return result


SCORES: dict[str, Callable[[FloatArray], FloatArray]] = {
    "max_probability": _max_probability,
    "negative_entropy": _negative_entropy,
    "energy": _energy,
    "max_logit": _max_logit,
    "margin": _margin,
}


@dataclass(frozen=True, slots=True)
class KnownScore:
    """One of the scores, with its operating point.

    Attributes:
        name: of the score, a key of `SCORES`.
        temperature: logits are divided by it.
        threshold: a car is `identified` from here on.
        stricter_if_found: how much higher that lies on a part of the photo that the worker chose
            itself: a closer look is another guess.

    Raises:
        ValueError: there is no such score, the temperature is not positive, or a closer look
            would be trusted more.
    """

    name: str
    temperature: float
    threshold: float
    stricter_if_found: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in SCORES:
            raise ValueError(f"no score {self.name!r}: there are {', '.join(SCORES)}")
        if not self.temperature > 0:
            raise ValueError(f"temperature {self.temperature} is not positive")
        if not self.stricter_if_found >= 0:
            raise ValueError("a part that was found needs a threshold as high as the photo's")

    def scores(self, logits: NDArray[np.float32]) -> FloatArray:
        """Scores [N] of logits [N, C]; the higher, the rather is the answer right."""
        return SCORES[self.name](logits.astype(np.float64) / self.temperature)

    def is_known(self, logits: NDArray[np.float32], found: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Whether the cars are `identified`, [N].

        Args:
            logits: [N, C].
            found: [N], whether it was the worker that chose this part of the photo.
        """
        thresholds = self.threshold + self.stricter_if_found * found
        return self.scores(logits) >= thresholds
