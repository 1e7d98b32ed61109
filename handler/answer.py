"""From logits to the answer of the public contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from handler.heatmap import Heatmap
from handler.known import softmax
from handler.labels import CarLabel
from handler.manifest import ModelManifest
from handler.reader import Source
from handler.region import Box

__all__ = ["Answer", "Prediction", "Region", "Verdict", "build_answer", "verdict_of"]

Verdict = Literal["identified", "uncertain", "not_a_car"]

# Two models closer than this (as a ratio of confidences) are told apart by chance.
_EQUALLY_LIKELY = 0.8
# Of a photo whose car fills less than this share of it, little is left to read.
_SMALL_PART = 0.1


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
class Region:
    """The part of the photo that was read.

    Attributes:
        box: the part, in pixels of the upright photo.
        source: who chose it.
        size: of the whole photo, (width, height).
    """

    box: Box
    source: Source
    size: tuple[int, int]

    @property
    def share(self) -> float:
        """Of the photo's area, 0…1."""
        return self.box.width * self.box.height / (self.size[0] * self.size[1])

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {**asdict(self.box), "source": self.source}


@dataclass(frozen=True, slots=True)
class Answer:
    """What is known about one photo.

    Attributes:
        predictions: the likeliest classes, best first; never empty.
        make_confidence: summed confidence of all classes of the first prediction's make, 0…1.
        verdict: whether to believe the first prediction.
        region: the part of the photo that was read.
        model_version: version of the model that answered.
        request_id: the request's id, if it had one.
        warnings: what the sender should know, in whole sentences.
        timing_ms: stage → milliseconds.
        heatmap: where the network saw the first prediction, if that was asked for.
    """

    predictions: tuple[Prediction, ...]
    make_confidence: float
    verdict: Verdict
    region: Region
    model_version: str
    request_id: str | None
    warnings: tuple[str, ...]
    timing_ms: Mapping[str, float]
    heatmap: Heatmap | None = None

    def to_json(self) -> dict[str, Any]:
        """The answer of the public contract, as plain data."""
        answer = {
            **self.predictions[0].to_json(),
            "make_confidence": round(self.make_confidence, 4),
            "verdict": self.verdict,
            "predictions": [prediction.to_json() for prediction in self.predictions],
            "region": self.region.to_json(),
            "warnings": list(self.warnings),
            "model_version": self.model_version,
            "request_id": self.request_id,
            "timing_ms": {stage: round(ms, 1) for stage, ms in self.timing_ms.items()},
        }
        return answer | ({"heatmap": self.heatmap.to_json()} if self.heatmap else {})


def build_answer(
    logits: NDArray[np.float32],
    labels: Sequence[CarLabel],
    manifest: ModelManifest,
    *,
    verdict: Verdict,
    region: Region,
    top_k: int,
    request_id: str | None = None,
    warnings: Sequence[str] = (),
    timing_ms: Mapping[str, float] | None = None,
) -> Answer:
    """Turn one photo's logits into its answer.

    Args:
        logits: [C], raw scores in class order.
        labels: the C classes.
        manifest: calibration and version.
        verdict: whether to believe the first prediction.
        region: what was read.
        top_k: how many predictions to give, at least 1; more than C gives C.
        request_id: passed on.
        warnings: passed on, before those found here.
        timing_ms: passed on.
    """
    probabilities = softmax(logits.astype(np.float64) / manifest.temperature)
    best = np.argsort(-probabilities, kind="stable")[:top_k]
    predictions = tuple(Prediction(labels[i], float(probabilities[i])) for i in best)
    make = predictions[0].label.make
    make_confidence = sum(
        probability
        for label, probability in zip(labels, probabilities.tolist(), strict=True)
        if label.make == make
    )
    return Answer(
        predictions=predictions,
        # Rounding errors of the sum must not show as a confidence over 1.
        make_confidence=min(make_confidence, 1.0),
        verdict=verdict,
        region=region,
        model_version=manifest.version,
        request_id=request_id,
        warnings=(*warnings, *_warnings(probabilities, labels, verdict, region)),
        timing_ms=dict(timing_ms or {}),
    )


def verdict_of(is_car: bool, is_known: bool) -> Verdict:
    """Whether to believe the likeliest class, given what the detector and the known score say."""
    if not is_car:
        return "not_a_car"
    return "identified" if is_known else "uncertain"


def _warnings(
    probabilities: NDArray[np.float64],
    labels: Sequence[CarLabel],
    verdict: Verdict,
    region: Region,
) -> list[str]:
    if verdict == "not_a_car":
        return []
    warnings = []
    if region.source == "found" and region.share < _SMALL_PART:
        warnings.append(
            f"The car fills only {max(region.share, 0.01):.0%} of the photo: "
            "a photo cropped to it makes the answer more reliable."
        )
    likely = np.argsort(-probabilities, kind="stable")
    likely = likely[probabilities[likely] >= _EQUALLY_LIKELY * probabilities[likely[0]]]
    if len(likely) > 3:
        warnings.append(f"{len(likely)} models are about equally likely.")
    elif len(likely) > 1:
        names = " and ".join(labels[i].label for i in likely)
        warnings.append(f"{names} are about equally likely.")
    return warnings
