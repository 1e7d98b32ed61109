"""What the public API answers, with real examples: the source of its OpenAPI."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

__all__ = [
    "EXAMPLE_REQUEST_ID",
    "Answer",
    "AnsweredPhoto",
    "Car",
    "ErrorBody",
    "ErrorDetail",
    "Health",
    "IdentifyOptions",
    "Label",
    "LabelTable",
    "Prediction",
    "Readiness",
    "RefusedPhoto",
    "Region",
    "Results",
]

EXAMPLE_REQUEST_ID = "9f1c6f0c2b7e4d0c8f3a5b6d7e8f9a0b"

_CAR: dict[str, JsonValue] = {
    "make": "Audi",
    "model": "TTS",
    "body": "Coupe",
    "year": 2012,
    "label": "Audi TTS Coupe 2012",
    "class_id": 13,
}
_RUNNER_UP: dict[str, JsonValue] = {
    "make": "Audi",
    "model": "TT RS",
    "body": "Coupe",
    "year": 2012,
    "label": "Audi TT RS Coupe 2012",
    "class_id": 24,
}
_REGION: dict[str, JsonValue] = {
    "left": 412,
    "top": 655,
    "right": 2390,
    "bottom": 1710,
    "source": "found",
}
_ANSWER: dict[str, JsonValue] = {
    **_CAR,
    "confidence": 0.93,
    "make_confidence": 0.97,
    "verdict": "identified",
    "predictions": [{**_CAR, "confidence": 0.93}, {**_RUNNER_UP, "confidence": 0.02}],
    "region": _REGION,
    "warnings": [],
    "model_version": "1.0",
    "request_id": EXAMPLE_REQUEST_ID,
    "timing_ms": {"decode": 3.1, "inference": 21.9},
}
_ERROR: dict[str, JsonValue] = {
    "code": "image_unreadable",
    "message": "The JPEG image is damaged or incomplete. Send the original file again.",
}


class _Answered(BaseModel):
    """Frozen, and open to fields that a newer worker adds."""

    model_config = ConfigDict(frozen=True, extra="allow")


class Car(_Answered):
    """One of the car models that are known."""

    make: str
    model: str
    body: str | None = Field(description="Body style; null where the class has none.")
    year: int = Field(description="Model year.")
    label: str = Field(description="The class name, as the data set spells it.")
    class_id: int = Field(ge=0, description="Position in the label table, from 0.")


class Label(Car):
    """One row of the label table."""

    model_config = ConfigDict(json_schema_extra={"examples": [_CAR]})


class Prediction(Car):
    """One car model and how likely it is."""

    confidence: float = Field(ge=0, le=1, description="Calibrated probability.")


class Region(_Answered):
    """A rectangle in pixels of the upright photo at its full size."""

    model_config = ConfigDict(json_schema_extra={"examples": [_REGION]})

    left: int = Field(ge=0, description="First column.")
    top: int = Field(ge=0, description="First row.")
    right: int = Field(ge=1, description="The column after the last.")
    bottom: int = Field(ge=1, description="The row after the last.")
    source: Literal["photo", "box", "found"] = Field(
        description="`photo`: it is the whole photo. `box`: its sender chose it. `found`: it is "
        "where the car was found."
    )


class Answer(Prediction):
    """What is known about one photo; its own fields are those of the likeliest prediction."""

    model_config = ConfigDict(json_schema_extra={"examples": [_ANSWER]})

    make_confidence: float = Field(
        ge=0, le=1, description="Confidence of the make: the sum over all its models."
    )
    verdict: Literal["identified", "uncertain", "not_a_car"] = Field(
        description="`uncertain`: a car, but probably none of the known models, or too close to "
        "call; the make may still be right. `not_a_car`: don't believe the rest."
    )
    predictions: list[Prediction] = Field(
        min_length=1, description="The likeliest `top_k`, best first."
    )
    region: Region = Field(description="The part of the photo that was read.")
    warnings: list[str] = Field(description="What to know about this photo or this answer.")
    model_version: str
    request_id: str | None
    timing_ms: dict[str, float] = Field(description="Milliseconds by stage.")


class ErrorDetail(BaseModel):
    """What went wrong and what to do."""

    model_config = ConfigDict(frozen=True, json_schema_extra={"examples": [_ERROR]})

    code: str = Field(description="Machine-readable; stays the same from release to release.")
    message: str = Field(description="For people.")


class ErrorBody(BaseModel):
    """The body of every error."""

    error: ErrorDetail
    request_id: str = Field(description="Also in the X-Request-Id header; quote it in a report.")


class AnsweredPhoto(BaseModel):
    """One of several photos, answered."""

    status: Literal[200] = 200
    filename: str | None = Field(description="As it was sent.")
    answer: Answer


class RefusedPhoto(BaseModel):
    """One of several photos, not answered; the others are."""

    status: int = Field(
        ge=400, le=599, description="The status this photo would have had by itself."
    )
    filename: str | None = Field(description="As it was sent.")
    error: ErrorDetail


class Results(BaseModel):
    """The answer to several photos, in the order they were sent."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "results": [
                        {"status": 200, "filename": "car.jpg", "answer": _ANSWER},
                        {"status": 422, "filename": "broken.jpg", "error": _ERROR},
                    ],
                    "request_id": EXAMPLE_REQUEST_ID,
                }
            ]
        }
    )

    results: list[AnsweredPhoto | RefusedPhoto]
    request_id: str


class LabelTable(BaseModel):
    """All that the served version can tell apart."""

    model_version: str = Field(examples=["1.0"])
    labels: list[Label]


class Health(BaseModel):
    """The gateway itself is alive."""

    status: Literal["alive"] = "alive"


class Readiness(BaseModel):
    """A worker has answered a photo just now."""

    status: Literal["ready"] = "ready"


class IdentifyOptions(BaseModel):
    """What may be asked of `/v1/identify`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    top_k: int = Field(default=5, ge=1, le=20, description="How many predictions the answer holds.")
