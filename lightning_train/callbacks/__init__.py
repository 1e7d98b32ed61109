"""Lightning callbacks: augmentation on the device, freezing."""

from lightning_train.callbacks.augmentation import (
    Augmentation,
    ColorAugmentation,
    GeometricAugmentation,
    ZoomAugmentation,
)
from lightning_train.callbacks.freezing import FreezeStages

__all__ = [
    "Augmentation",
    "ColorAugmentation",
    "FreezeStages",
    "GeometricAugmentation",
    "ZoomAugmentation",
]
