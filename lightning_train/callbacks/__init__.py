"""Lightning callbacks: augmentation on the device, averaging, freezing."""

from lightning_train.callbacks.augmentation import (
    Augmentation,
    ColorAugmentation,
    GeometricAugmentation,
    ZoomAugmentation,
)
from lightning_train.callbacks.averaging import EMA
from lightning_train.callbacks.freezing import FreezeStages

__all__ = [
    "EMA",
    "Augmentation",
    "ColorAugmentation",
    "FreezeStages",
    "GeometricAugmentation",
    "ZoomAugmentation",
]
