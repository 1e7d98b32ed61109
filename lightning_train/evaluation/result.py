"""What was measured of a model on one split: the currency between scoring and the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handler.labels import CarLabel
from lightning_train.data import Sample
from lightning_train.evaluation import metrics

__all__ = ["ClassResult", "Evaluation", "PhotoScores", "Temperature"]

_VERDICTS = ("identified", "uncertain", "not_a_car")
_LISTED_CONFUSIONS = 20


@dataclass(frozen=True, slots=True)
class Temperature:
    """What logits are divided by, and which photos it was fitted on.

    Attributes:
        value: > 0.
        origin: half a sentence that goes on from "fitted on …".
    """

    value: float
    origin: str


@dataclass(frozen=True, slots=True)
class PhotoScores:
    """What a model says of N photos.

    Attributes:
        logits: float32 [N, C].
        known: score name → float32 [N]; the higher, the rather it is a car that the model knows.
        verdicts: [N], the worker's verdicts; None where a bare network was scored.
    """

    logits: NDArray[np.float32]
    known: Mapping[str, NDArray[np.float32]]
    verdicts: NDArray[np.str_] | None = None

    def verdict_shares(self) -> dict[str, float]:
        """Verdict → the share of the photos that got it; nothing without verdicts."""
        if self.verdicts is None:
            return {}
        return {verdict: float((self.verdicts == verdict).mean()) for verdict in _VERDICTS}


@dataclass(frozen=True, slots=True)
class ClassResult:
    """How one class fared.

    Attributes:
        label: the class.
        photos: scored photos of it; may be 0.
        right: how many of them were named rightly.
        training_photos: how many the network could learn from.
    """

    label: CarLabel
    photos: int
    right: int
    training_photos: int

    @property
    def accuracy(self) -> float | None:
        """The share of right answers, None without photos."""
        return self.right / self.photos if self.photos else None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A model's answers to the labelled photos of a split, and to photos of anything else.

    Attributes:
        labels: the model's C classes.
        samples: the N photos, their class ids those of `labels`; never empty.
        cars: what the model says of them, in the same order.
        temperature: for calibrated confidences.
        training: the photos of the training split, their class ids those of `labels`; empty if
            the data set has none.
        outside: folder name → what the model says of the photos in it.

    Raises:
        ValueError: photos, logits and classes differ in number.
    """

    labels: tuple[CarLabel, ...]
    samples: tuple[Sample, ...]
    cars: PhotoScores
    temperature: Temperature
    training: tuple[Sample, ...] = ()
    outside: Mapping[str, PhotoScores] = field(default_factory=dict)

    def __post_init__(self) -> None:
        expected = (len(self.samples), len(self.labels))
        if not self.samples or self.cars.logits.shape != expected:
            raise ValueError(
                f"logits are {self.cars.logits.shape}, photos × classes are {expected}"
            )

    @property
    def truth(self) -> NDArray[np.int64]:
        """Class ids [N] of what the photos show."""
        return np.array([sample.class_id for sample in self.samples], dtype=np.int64)

    @property
    def answers(self) -> NDArray[np.int64]:
        """Class ids [N] of the top answers."""
        result: NDArray[np.int64] = self.cars.logits.argmax(axis=1)
        return result

    @property
    def confidences(self) -> NDArray[np.float32]:
        """Calibrated probability [N] of the top answers."""
        return metrics.confidences(self.cars.logits, self.temperature.value)

    def reliability(self, *, calibrated: bool) -> metrics.Reliability:
        """Confidence against accuracy, with or without the temperature."""
        temperature = self.temperature.value if calibrated else 1.0
        return metrics.reliability(self.cars.logits, self.truth, temperature)

    def confusions(self) -> list[metrics.Confusion]:
        """Every mistake, by its pair of classes, the most frequent pair first."""
        return metrics.confusions(self.cars.logits, self.truth, self.temperature.value)

    def classes(self) -> list[ClassResult]:
        """How each class fared, in class order."""
        size = len(self.labels)
        photos = np.bincount(self.truth, minlength=size)
        right = np.bincount(self.truth[self.answers == self.truth], minlength=size)
        taught = np.array([sample.class_id for sample in self.training], dtype=np.int64)
        training = np.bincount(taught, minlength=size)
        counts = zip(photos.tolist(), right.tolist(), training.tolist(), strict=True)
        return [ClassResult(label, *row) for label, row in zip(self.labels, counts, strict=True)]

    def worst_classes(self) -> list[ClassResult]:
        """Classes with wrong answers: the least accurate first, of equals the larger first."""
        faulty = [result for result in self.classes() if result.right < result.photos]
        return sorted(faulty, key=lambda result: (result.accuracy, -result.photos))

    def figures(self) -> dict[str, float]:
        """Figure → value, fractions as 0…1, for the table of labelled photos."""
        figures = metrics.accuracies(self.cars.logits, self.truth, self.labels)
        figures["calibration_error_before"] = self.reliability(calibrated=False).calibration_error
        figures["calibration_error"] = self.reliability(calibrated=True).calibration_error
        if self.cars.verdicts is not None:
            identified = self.cars.verdicts == "identified"
            right = (self.answers == self.truth)[identified]
            figures |= self.cars.verdict_shares()
            figures["identified_right"] = float(right.mean()) if identified.any() else 0.0
        return figures

    def outside_figures(self) -> dict[str, dict[str, float]]:
        """Folder → how well its photos are told from the labelled ones."""
        return {
            name: {
                "photos": float(len(others.logits)),
                **others.verdict_shares(),
                **{
                    f"auroc_{score}": metrics.auroc(values, others.known[score])
                    for score, values in self.cars.known.items()
                },
            }
            for name, others in self.outside.items()
        }

    def to_json(self) -> dict[str, Any]:
        """All figures as plain data."""
        temperature = {"value": self.temperature.value, "fitted_on": self.temperature.origin}
        return {
            "figures": self.figures(),
            "temperature": temperature,
            "outside": self.outside_figures(),
            "classes": [
                {
                    "class_id": result.label.class_id,
                    "label": result.label.label,
                    "photos": result.photos,
                    "right": result.right,
                    "accuracy": result.accuracy,
                    "training_photos": result.training_photos,
                }
                for result in self.classes()
            ],
            "confused_pairs": [
                {
                    "truth": self.labels[confusion.truth].label,
                    "answer": self.labels[confusion.answer].label,
                    "photos": len(confusion.photos),
                }
                for confusion in self.confusions()[:_LISTED_CONFUSIONS]
            ],
        }
