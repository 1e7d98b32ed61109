"""Lightning callbacks: augmentation on the device, averaging, freezing, reports, failures."""

from lightning_train.callbacks.augmentation import (
    Augmentation,
    ColorAugmentation,
    CutMixAugmentation,
    ErasingAugmentation,
    FramingAugmentation,
    GeometricAugmentation,
    MixupAugmentation,
    QualityAugmentation,
    RandAugmentation,
    TrivialAugmentation,
    ZoomAugmentation,
)
from lightning_train.callbacks.averaging import EMA
from lightning_train.callbacks.export_weights import ExportWeights
from lightning_train.callbacks.failures import CleanExit, StopOnNonFiniteLoss
from lightning_train.callbacks.freezing import FreezeStages
from lightning_train.callbacks.run_record import RunRecord
from lightning_train.callbacks.run_report import RunReport

__all__ = [
    "EMA",
    "Augmentation",
    "CleanExit",
    "ColorAugmentation",
    "CutMixAugmentation",
    "ErasingAugmentation",
    "ExportWeights",
    "FramingAugmentation",
    "FreezeStages",
    "GeometricAugmentation",
    "MixupAugmentation",
    "QualityAugmentation",
    "RandAugmentation",
    "RunRecord",
    "RunReport",
    "StopOnNonFiniteLoss",
    "TrivialAugmentation",
    "ZoomAugmentation",
]
