"""What the public API answers, with real examples: the source of its OpenAPI."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from pydantic.json_schema import SkipJsonSchema

__all__ = [
    "EXAMPLE_REQUEST_ID",
    "Answer",
    "AnsweredPhoto",
    "CanaryStatus",
    "Car",
    "ErrorBody",
    "ErrorDetail",
    "Health",
    "Heatmap",
    "Label",
    "LabelTable",
    "LegacyAnswer",
    "ModelVersion",
    "Models",
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
_PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAECAYAAACzzX7wAAAAZ0lEQVR42nXMPQpAcByA4Rd/XwOJlcXmBM7jBm7g"
    "MO7gBkpZTUYLKZNSSn4WZfIc4AFAKnSZcGUglBFfBIOXJoJDR3JtxHtNfrRkKmT2Cxq3pFfARcSkAhYzZbNOBjvg"
    "Vh4H6zf9egDhFR4hOc75zwAAAABJRU5ErkJggg=="
)
_HEATMAP: dict[str, JsonValue] = {
    "class_id": 13,
    "grid": [[-0.2, -0.54, -0.13], [1.16, 6.63, 10.75], [-0.25, -1.11, 3.41]],
    "png": _PNG,
}
_ANSWER: dict[str, JsonValue] = {
    **_CAR,
    "confidence": 0.93,
    "make_confidence": 0.97,
    "verdict": "identified",
    "predictions": [{**_CAR, "confidence": 0.93}, {**_RUNNER_UP, "confidence": 0.02}],
    "region": _REGION,
    "warnings": [],
    "model_version": "1.1",
    "request_id": EXAMPLE_REQUEST_ID,
    "timing_ms": {"decode": 3.1, "inference": 21.9},
}
_MODELS: dict[str, JsonValue] = {
    "name": "car_identifier",
    "default_version": "1.1",
    "versions": [
        {"version": "1.1", "default": True, "ready_workers": 1, "workers": 1},
        {"version": "1.2", "default": False, "ready_workers": 1, "workers": 1},
    ],
    "canary": {"version": "1.2", "share": 0.1, "compared": 120, "agreed": 118, "failed": 0},
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


class Heatmap(_Answered):
    """What spoke for a class, and where on the photo (a class-activation map)."""

    model_config = ConfigDict(json_schema_extra={"examples": [_HEATMAP]})

    class_id: int = Field(ge=0, description="The class: that of the first prediction.")
    grid: list[list[float]] = Field(
        description="How much each place of the region that was read speaks for the class, row by "
        "row from the top; negative: against it. The mean is the class's logit, less its bias."
    )
    png: str = Field(
        description="A small PNG in base64, to be stretched over the whole upright photo: from "
        "transparent through yellow to red.",
        json_schema_extra={"contentEncoding": "base64", "contentMediaType": "image/png"},
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
    heatmap: Heatmap | SkipJsonSchema[None] = Field(
        default=None,
        # Not asked for is not the same as null.
        exclude_if=lambda heatmap: heatmap is None,
        description="Where the network looked; there if `explain` was true.",
    )


class LegacyAnswer(Answer):
    """An `Answer`, and its class as the predecessor of this service gave it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {**_ANSWER, "class": _CAR["class_id"], "car_details": _CAR["label"]},
            ]
        }
    )

    class_: int = Field(alias="class", ge=0, description="The same as `class_id`.")
    car_details: str = Field(description="The same as `label`.")

    @classmethod
    def of(cls, answer: Answer) -> Self:
        """The answer, with the predecessor's names added."""
        own = {"class": answer.class_id, "car_details": answer.label}
        return cls.model_validate({**dict(answer), **own})


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

    model_version: str = Field(examples=["1.1"])
    labels: list[Label]


class ModelVersion(BaseModel):
    """One version of the model that is served."""

    version: str
    default: bool = Field(description="Whether it answers where no version is asked for.")
    ready_workers: int = Field(ge=0, description="Workers that are loaded and take photos.")
    workers: int = Field(ge=0, description="All its workers.")


class CanaryStatus(BaseModel):
    """A version on trial: it gets a share of the requests that ask for no version."""

    version: str
    share: float = Field(ge=0, le=1, description="Of the requests that ask for no version.")
    compared: int = Field(
        ge=0,
        description="Photos that it and then, out of the sender's sight, the default answered.",
    )
    agreed: int = Field(ge=0, description="Of these, those with the same class and verdict.")
    failed: int = Field(
        ge=0, description="Photos it could not answer in time, so that the default version did."
    )


class Models(BaseModel):
    """What is served."""

    model_config = ConfigDict(json_schema_extra={"examples": [_MODELS]})

    name: str
    default_version: str
    versions: list[ModelVersion] = Field(min_length=1)
    canary: CanaryStatus | None = Field(
        description="Counted by this gateway since it knows of this canary; null without one."
    )


class Health(BaseModel):
    """The gateway itself is alive."""

    status: Literal["alive"] = "alive"


class Readiness(BaseModel):
    """A worker has answered a photo just now."""

    status: Literal["ready"] = "ready"
