"""From logits to the answer of the public contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from handler.labels import CarLabel
from handler.manifest import ModelManifest

__all__ = ["Answer", "Prediction", "Verdict", "build_answer", "verdict_of"]

Verdict = Literal["identified", "uncertain", "not_a_car"]

# Two models closer than this (as a ratio of confidences) are told apart by chance.
_EQUALLY_LIKELY = 0.8


@dataclass(frozen=True, slots=True)
class Prediction:
    """One class and how likely it is.

    Attributes:
        label: the class.
        confidence: calibrated probability, 0…1.
    """

    label: CarLabel
    confidence: float

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        label = asdict(self.label)
        order = ("make", "model", "body", "year", "label", "class_id")
        return {key: label[key] for key in order} | {"confidence": round(self.confidence, 4)}


@dataclass(frozen=True, slots=True)
class Answer:
    """What is known about one photo.

    Attributes:
        predictions: the likeliest classes, best first; never empty.
        make_confidence: summed confidence of all classes of the first prediction's make, 0…1.
        verdict: whether to believe the first prediction.
        model_version: version of the model that answered.
        request_id: the request's id, if it had one.
        warnings: what the sender should know, in whole sentences.
        timing_ms: stage → milliseconds.
    """

    predictions: tuple[Prediction, ...]
    make_confidence: float
    verdict: Verdict
    model_version: str
    request_id: str | None
    warnings: tuple[str, ...]
    timing_ms: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """The answer of the public contract, as plain data."""
        return {
            **self.predictions[0].to_json(),
            "make_confidence": round(self.make_confidence, 4),
            "verdict": self.verdict,
            "predictions": [prediction.to_json() for prediction in self.predictions],
            "warnings": list(self.warnings),
            "model_version": self.model_version,
            "request_id": self.request_id,
            "timing_ms": {stage: round(ms, 1) for stage, ms in self.timing_ms.items()},
        }


def build_answer(
    logits: NDArray[np.float32],
    labels: Sequence[CarLabel],
    manifest: ModelManifest,
    *,
    top_k: int,
    is_car: bool = True,
    request_id: str | None = None,
    warnings: Sequence[str] = (),
    timing_ms: Mapping[str, float] | None = None,
) -> Answer:
    """Turn one photo's logits into its answer.

    Args:
        logits: [C], raw scores in class order.
        labels: the C classes.
        manifest: calibration and verdict thresholds.
        top_k: how many predictions to give, at least 1; more than C gives C.
        is_car: what the car detector says; True where the archive has none.
        request_id: passed on.
        warnings: passed on, before those found here.
        timing_ms: passed on.
    """
    scores = logits.astype(np.float64)
    probabilities = _softmax(scores / manifest.temperature)
    best = np.argsort(-probabilities, kind="stable")[:top_k]
    predictions = tuple(Prediction(labels[i], float(probabilities[i])) for i in best)
    make = predictions[0].label.make
    make_confidence = sum(
        probability
        for label, probability in zip(labels, probabilities.tolist(), strict=True)
        if label.make == make
    )
    verdict = verdict_of(is_car, predictions[0].confidence, manifest)
    return Answer(
        predictions=predictions,
        # Rounding errors of the sum must not show as a confidence over 1.
        make_confidence=min(make_confidence, 1.0),
        verdict=verdict,
        model_version=manifest.version,
        request_id=request_id,
        warnings=(*warnings, *_warnings(probabilities, labels, verdict)),
        timing_ms=dict(timing_ms or {}),
    )


def verdict_of(is_car: bool, confidence: float, manifest: ModelManifest) -> Verdict:
    """Whether to believe the likeliest class, given the car detector's word and its confidence."""
    if not is_car:
        return "not_a_car"
    return "uncertain" if confidence < manifest.min_confidence else "identified"


def _warnings(
    probabilities: NDArray[np.float64], labels: Sequence[CarLabel], verdict: Verdict
) -> list[str]:
    if verdict == "not_a_car":
        return []
    likely = np.argsort(-probabilities, kind="stable")
    likely = likely[probabilities[likely] >= _EQUALLY_LIKELY * probabilities[likely[0]]]
    if len(likely) == 1:
        return []
    if len(likely) > 3:
        return [f"{len(likely)} models are about equally likely."]
    return [" and ".join(labels[i].label for i in likely) + " are about equally likely."]


def _softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    exponentials = np.exp(scores - scores.max())
    probabilities: NDArray[np.float64] = exponentials / exponentials.sum()
    return probabilities
