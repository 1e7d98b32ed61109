"""A training run over its epochs, as Lightning's CSVLogger wrote it."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["Curve", "TrainingCurves", "read_curves"]


@dataclass(frozen=True, slots=True)
class Curve:
    """One logged value over the run.

    Attributes:
        epochs: [K], epochs done when it was logged, with fractions.
        values: [K].
    """

    epochs: NDArray[np.float64]
    values: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TrainingCurves:
    """What was logged of a run.

    Attributes:
        columns: name of the logged value → its curve; empty columns are left out.
        steps_per_epoch: steps that make up an epoch.
    """

    columns: Mapping[str, Curve]
    steps_per_epoch: float

    def learning_rates(self) -> list[Curve]:
        """One curve per parameter group, as LearningRateMonitor names them."""
        return [curve for name, curve in self.columns.items() if name.startswith("lr-")]

    def first_of(self, *names: str) -> Curve | None:
        """The first of these columns that was logged."""
        return next((self.columns[name] for name in names if name in self.columns), None)


def read_curves(path: Path) -> TrainingCurves | None:
    """Read a CSVLogger's `metrics.csv`.

    Returns:
        The curves; None if there is no such file, or no training in it.
    """
    if not path.is_file():
        return None
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns: dict[str, list[tuple[int, float]]] = {}
    steps_per_epoch = 0.0
    for row in rows:
        if not (row.get("step") or "").isdigit():
            continue
        step = int(row["step"])
        for name, text in row.items():
            if text and name not in ("step", "epoch"):
                columns.setdefault(name, []).append((step, float(text)))
        if row.get("epoch") and (row.get("train/loss_epoch") or row.get("train/loss")):
            # An epoch's own row is its last; both count from 0. An epoch cut short has fewer steps.
            steps_per_epoch = max(steps_per_epoch, (step + 1) / (int(row["epoch"]) + 1))
    if not steps_per_epoch:
        return None
    curves = {}
    for name, points in columns.items():
        steps, values = np.array(points, dtype=np.float64).T
        curves[name] = Curve((steps + 1) / steps_per_epoch, values)
    return TrainingCurves(curves, steps_per_epoch)
