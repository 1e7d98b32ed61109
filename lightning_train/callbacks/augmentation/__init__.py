"""Augmentation as callbacks, one idea a module; `lightning_train.callbacks` exports them all."""

from lightning_train.callbacks.augmentation.base import Augmentation
from lightning_train.callbacks.augmentation.color import ColorAugmentation
from lightning_train.callbacks.augmentation.erasing import ErasingAugmentation
from lightning_train.callbacks.augmentation.framing import FramingAugmentation
from lightning_train.callbacks.augmentation.geometry import GeometricAugmentation, ZoomAugmentation
from lightning_train.callbacks.augmentation.mixing import CutMixAugmentation, MixupAugmentation
from lightning_train.callbacks.augmentation.policies import RandAugmentation, TrivialAugmentation
from lightning_train.callbacks.augmentation.quality import QualityAugmentation

__all__ = [
    "Augmentation",
    "ColorAugmentation",
    "CutMixAugmentation",
    "ErasingAugmentation",
    "FramingAugmentation",
    "GeometricAugmentation",
    "MixupAugmentation",
    "QualityAugmentation",
    "RandAugmentation",
    "TrivialAugmentation",
    "ZoomAugmentation",
]
