"""Something in front of the car."""

from __future__ import annotations

import kornia.augmentation as kaug
import torch
from torch import Tensor

from lightning_train.callbacks.augmentation.base import (
    ImageAugmentation,
    check_probability,
    chosen,
)

__all__ = ["ErasingAugmentation"]


class ErasingAugmentation(ImageAugmentation):
    """Random erasing: a rectangle of noise hides a part (Zhong et al. 2017, arXiv 1708.04896).

    The network must not rest on the badge alone. Of the paper's fillings, noise did best.

    Args:
        probability: that a photo loses a part.
        area: smallest and largest part of the photo's area.
        aspect: widest aspect ratio of the rectangle, either way.
    """

    def __init__(
        self,
        probability: float = 0.25,
        area: tuple[float, float] = (0.02, 0.2),
        aspect: float = 3.3,
    ) -> None:
        check_probability(probability=probability)
        if not 0 < area[0] <= area[1] <= 1 or aspect < 1:
            raise ValueError(
                "erasing needs 0 < area[0] <= area[1] <= 1 and aspect >= 1; got "
                f"area={area}, aspect={aspect}"
            )
        self.probability = probability
        self._rectangle = kaug.RandomErasing(area, (1 / aspect, aspect), value=0.0, p=1.0)

    def transform(self, images: Tensor) -> Tensor:
        """Put noise where kornia, which can only paint, would put black."""
        index = chosen(images, self.probability)
        if not len(index):
            return images
        photos = images[index]
        kept = self._rectangle(torch.ones_like(photos[:, :1])) > 0
        return images.index_copy(0, index, torch.where(kept, photos, torch.rand_like(photos)))
