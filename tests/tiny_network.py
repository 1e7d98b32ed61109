"""A network of a few thousand weights with all that callbacks meet: stages, BatchNorm, dropout."""

from __future__ import annotations

from itertools import pairwise

from torch import nn
from toy_training import toy_model

from lightning_train.classifier import CarClassifier
from lightning_train.networks import CarNetwork

STAGES = 4


def tiny_model(**changes: object) -> CarClassifier:
    model = toy_model(**changes)
    widths = [3, 8, 8, 16, 16]
    stages = [
        nn.Sequential(
            nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        for before, width in pairwise(widths)
    ]
    model.network = CarNetwork(nn.Sequential(*stages), widths[-1], 3, dropout=0.3)
    return model
