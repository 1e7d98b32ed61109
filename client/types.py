"""What the server says, as frozen dataclasses.

Each is made by `from_json` from the API's JSON. Fields that a newer server adds are left out;
one that is missing is a KeyError, which `CarIdentifierClient` turns into its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

__all__ = ["Answer", "Car", "LabelTable", "Prediction", "Verdict"]

Verdict = Literal["identified", "uncertain", "not_a_car"]


@dataclass(frozen=True, slots=True)
class Car:
    """One of the car models that the server knows.

    Attributes:
        make: manufacturer, e.g. "Aston Martin".
        model: model without make, body and year, e.g. "V8 Vantage".
        body: body style, e.g. "Coupe"; None where the class has none.
        year: model year.
        label: the class name, e.g. "Aston Martin V8 Vantage Coupe 2012".
        class_id: position in the label table, from 0.
    """

    make: str
    model: str
    body: str | None
    year: int
    label: str
    class_id: int

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """From one label of `/v1/labels`."""
        return cls(**_car_fields(data))


@dataclass(frozen=True, slots=True)
class Prediction(Car):
    """A car model and how likely it is.

    Attributes:
        confidence: calibrated probability, 0…1.
    """

    confidence: float

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """From one entry of an answer's `predictions`."""
        return cls(**_car_fields(data), confidence=data["confidence"])


@dataclass(frozen=True, slots=True)
class Answer(Prediction):
    """What is known about one photo; its own make, model, … are the likeliest prediction's.

    Attributes:
        make_confidence: confidence of the make alone, the sum over its models, 0…1.
        verdict: "identified"; "uncertain": a car, but probably none of the known models, or too
            close to call; "not_a_car": don't believe the rest.
        predictions: the likeliest cars, best first.
        warnings: what to know about the photo or the answer.
        model_version: version of the model that answered.
        request_id: what to quote when reporting this answer.
        timing_ms: stage → milliseconds.
    """

    make_confidence: float
    verdict: Verdict
    predictions: tuple[Prediction, ...]
    warnings: tuple[str, ...]
    model_version: str
    request_id: str | None
    timing_ms: Mapping[str, float]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """From the answer of `/v1/identify` to one photo."""
        return cls(
            **_car_fields(data),
            confidence=data["confidence"],
            make_confidence=data["make_confidence"],
            verdict=data["verdict"],
            predictions=tuple(Prediction.from_json(entry) for entry in data["predictions"]),
            warnings=tuple(data["warnings"]),
            model_version=data["model_version"],
            request_id=data["request_id"],
            timing_ms=dict(data["timing_ms"]),
        )


@dataclass(frozen=True, slots=True)
class LabelTable:
    """All that a version of the model can tell apart.

    Attributes:
        model_version: the version.
        labels: every car model, in `class_id` order.
    """

    model_version: str
    labels: tuple[Car, ...]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """From the answer of `/v1/labels`."""
        labels = tuple(Car.from_json(label) for label in data["labels"])
        return cls(model_version=data["model_version"], labels=labels)


def _car_fields(data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: data[name] for name in ("make", "model", "body", "year", "label", "class_id")}
