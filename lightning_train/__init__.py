"""Train, evaluate, quantise and package the car recogniser. `python -m lightning_train --help`."""

from lightning_train.torchvision_compat import declare_missing_operators

declare_missing_operators()
