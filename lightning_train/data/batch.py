"""What the data module hands to the training step."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from torch import Tensor

__all__ = ["Batch"]


class Batch(TypedDict):
    """Photos and their classes.

    `image` is [N, 3, H, W]: uint8 0…255 as it comes from the data module, float 0…1 once an
    augmentation has touched it. `label` is int64 [N]. `target`, float [N, C] with rows that sum to
    1, is there once photos have been mixed (mixup, CutMix), and then takes the label's place.
    """

    image: Tensor
    label: Tensor
    target: NotRequired[Tensor]
