"""What the server says, as frozen dataclasses.

Each is made by `from_json` from the API's JSON. Fields that a newer server adds are left out;
one that is missing is a KeyError, which `CarIdentifierClient` turns into its own.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, Literal, Self, TypeVar

__all__ = [
    "Answer",
    "Canary",
    "Car",
    "Heatmap",
    "LabelTable",
    "ModelTable",
    "ModelVersion",
    "Prediction",
    "Region",
    "Verdict",
]

Verdict = Literal["identified", "uncertain", "not_a_car"]

_Flat = TypeVar("_Flat", bound="Region | ModelVersion | Canary")


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
class Region:
    """The part of the photo that was read, in pixels of the upright photo at its full size.

    Attributes:
        left: first column.
        top: first row.
        right: the column after the last.
        bottom: the row after the last.
        source: "photo": it is the whole; "box": it was asked for; "found": the car is there.
    """

    left: int
    top: int
    right: int
    bottom: int
    source: Literal["photo", "box", "found"]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """From an answer's `region`."""
        return _picked(cls, data)


@dataclass(frozen=True, slots=True)
class Heatmap:
    """Where the network looked.

    Attributes:
        class_id: the car model it explains.
        grid: how much each place of the region speaks for it, row by row from the top.
        png: a small see-through PNG file, to stretch over the upright photo.
    """

    class_id: int
    grid: tuple[tuple[float, ...], ...]
    png: bytes

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """From an answer's `heatmap`."""
        return cls(
            class_id=data["class_id"],
            grid=tuple(tuple(row) for row in data["grid"]),
            png=base64.b64decode(data["png"]),
        )


@dataclass(frozen=True, slots=True)
class Answer(Prediction):
    """What is known about one photo; its own make, model, … are the likeliest prediction's.

    Attributes:
        make_confidence: confidence of the make alone, the sum over its models, 0…1.
        verdict: "identified"; "uncertain": a car, but probably none of the known models, or too
            close to call; "not_a_car": don't believe the rest.
        predictions: the likeliest cars, best first.
        region: the part of the photo that was read.
        heatmap: where the network looked, if that was asked for.
        warnings: what to know about the photo or the answer.
        model_version: version of the model that answered.
        request_id: what to quote when reporting this answer.
        timing_ms: stage → milliseconds.
    """

    make_confidence: float
    verdict: Verdict
    predictions: tuple[Prediction, ...]
    region: Region
    heatmap: Heatmap | None
    warnings: tuple[str, ...]
    model_version: str
    request_id: str | None
    timing_ms: Mapping[str, float]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """From the answer of `/v1/identify` to one photo."""
        heatmap = data.get("heatmap")
        return cls(
            **_car_fields(data),
            confidence=data["confidence"],
            make_confidence=data["make_confidence"],
            verdict=data["verdict"],
            predictions=tuple(Prediction.from_json(entry) for entry in data["predictions"]),
            region=Region.from_json(data["region"]),
            heatmap=None if heatmap is None else Heatmap.from_json(heatmap),
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


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A version of the model that is registered.

    Attributes:
        version: e.g. "1.1".
        default: whether it answers requests that name no version.
        ready_workers: how many of its workers are ready.
        workers: how many it has.
    """

    version: str
    default: bool
    ready_workers: int
    workers: int


@dataclass(frozen=True, slots=True)
class Canary:
    """A version that is tried out.

    Attributes:
        version: e.g. "1.2".
        share: of the requests that name no version, 0…1.
        compared: how many of its answers were compared with the default version's.
        agreed: how many of them were the same.
        failed: how many photos it had no answer to, so that the default version answered; 0 where
            the server does not say.
    """

    version: str
    share: float
    compared: int
    agreed: int
    failed: int = 0


@dataclass(frozen=True, slots=True)
class ModelTable:
    """What is served.

    Attributes:
        name: of the model.
        default_version: which version answers requests that name none.
        versions: all that are registered.
        canary: the version that is tried out, if there is one.
    """

    name: str
    default_version: str
    versions: tuple[ModelVersion, ...]
    canary: Canary | None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """From the answer of `/v1/models`."""
        canary = data["canary"]
        return cls(
            name=data["name"],
            default_version=data["default_version"],
            versions=tuple(_picked(ModelVersion, entry) for entry in data["versions"]),
            canary=None if canary is None else _picked(Canary, canary),
        )


def _picked(kind: type[_Flat], data: Mapping[str, Any]) -> _Flat:
    wanted = [it.name for it in fields(kind) if it.name in data or it.default is MISSING]
    return kind(**{name: data[name] for name in wanted})


def _car_fields(data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: data[name] for name in ("make", "model", "body", "year", "label", "class_id")}
