"""`POST /v1/identify`: photos in, answers out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ValidationError
from starlette.responses import Response

from gateway.body import Photo, UploadMemory, read_upload
from gateway.errors import (
    AnswerTimeoutError,
    BodyTooLargeError,
    BodyUnreadableError,
    GatewayError,
    ImageMissingError,
    ImageTooLargeError,
    InvalidOptionError,
    ModelUnavailableError,
    PhotoRefusedError,
    ServerBusyError,
    TooManyPhotosError,
    UnsupportedMediaTypeError,
    error_responses,
    invalid_option,
)
from gateway.schemas import Answer, AnsweredPhoto, IdentifyOptions, RefusedPhoto, Results
from gateway.settings import Settings
from gateway.upstream import TorchServe

__all__ = ["Identifier", "router"]

_OPTION_NAMES = frozenset(IdentifyOptions.model_fields)


class Identifier:
    """Has the photos of a request answered, a few at a time."""

    def __init__(self, upstream: TorchServe, settings: Settings) -> None:
        self.settings = settings
        self.upload_memory = UploadMemory(settings.upload_memory_bytes)
        self._upstream = upstream

    async def one(self, photo: Photo, options: IdentifyOptions, request_id: str) -> Answer:
        """Answer one photo.

        Raises:
            GatewayError: why it has no answer.
        """
        if photo.refusal:
            raise photo.refusal
        return await self._upstream.identify(photo.data, top_k=options.top_k, request_id=request_id)

    async def several(
        self, photos: Sequence[Photo], options: IdentifyOptions, request_id: str
    ) -> Results:
        """Answer several photos, each by itself and in order.

        Raises:
            GatewayError: none could be answered for a reason that is the server's, not theirs.
        """
        free = asyncio.Semaphore(self.settings.photos_in_flight)

        async def outcome(index: int, photo: Photo) -> Answer | GatewayError:
            async with free:
                try:
                    return await self.one(photo, options, f"{request_id}-{index}")
                except GatewayError as error:
                    return error

        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(outcome(index, photo)) for index, photo in enumerate(photos, 1)
            ]
        outcomes = [task.result() for task in tasks]
        failures = [
            outcome
            for outcome in outcomes
            if isinstance(outcome, GatewayError)
            and outcome.status >= HTTPStatus.INTERNAL_SERVER_ERROR
        ]
        if len(failures) == len(outcomes):
            raise failures[0]
        return Results(
            results=[
                RefusedPhoto(status=outcome.status, filename=photo.filename, error=outcome.detail)
                if isinstance(outcome, GatewayError)
                else AnsweredPhoto(filename=photo.filename, answer=outcome)
                for photo, outcome in zip(photos, outcomes, strict=True)
            ],
            request_id=request_id,
        )


def _options(query: IdentifyOptions, fields: dict[str, str]) -> IdentifyOptions:
    """The options of a request: each in its query or in its form, not in both."""
    asked = query.model_dump(exclude_unset=True)
    if twice := sorted(asked.keys() & fields.keys()):
        raise InvalidOptionError(f"{twice[0]} was given twice: in the address and in the form.")
    try:
        return IdentifyOptions.model_validate({**asked, **fields})
    except ValidationError as error:
        raise invalid_option(error.errors(), sorted(_OPTION_NAMES)) from error


def _identifier(request: Request) -> Identifier:
    identifier: Identifier = request.app.state.identifier
    return identifier


def _request_body() -> dict[str, Any]:
    """The body in OpenAPI's words; it is read as a stream, so FastAPI can't know."""
    top_k = IdentifyOptions.model_json_schema()["properties"]["top_k"]
    photo = {"type": "string", "contentMediaType": "image/*"}
    form = {
        "type": "object",
        "description": "Files are photos, whatever their field names; several are answered in "
        "order.",
        "properties": {
            "file": {"type": "array", "items": photo, "minItems": 1, "maxItems": 32},
            "top_k": top_k,
        },
        "required": ["file"],
    }
    raw = {"schema": {"type": "string", "format": "binary"}}
    return {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": form},
            "image/*": raw,
            "application/octet-stream": raw,
        },
    }


router = APIRouter(tags=["identify"])


@router.post(
    "/v1/identify",
    summary="Make, model and year of the car on a photo",
    response_model=Answer | Results,
    response_description="One photo: its answer. Several: the answer or error of each, in order.",
    openapi_extra={"requestBody": _request_body()},
    responses=error_responses(
        ImageMissingError(
            "The request holds no photo. Send it as a form file or as the body itself."
        ),
        BodyUnreadableError("The multipart body breaks off before its end. Send it again."),
        ImageTooLargeError("The photo has more than 20 MB. Send it smaller."),
        BodyTooLargeError("The body has more than 100 MB. Send fewer photos at a time."),
        TooManyPhotosError("One request takes at most 32 photos. Send the others in another one."),
        UnsupportedMediaTypeError("A body of type 'application/json' holds no photo."),
        PhotoRefusedError(415, "unsupported_image_type", "Send a JPEG, PNG, WebP or HEIC photo."),
        PhotoRefusedError(422, "image_unreadable", "The JPEG image is damaged. Send the original."),
        InvalidOptionError("top_k: Input should be less than or equal to 20, not '99'."),
        ModelUnavailableError("The model server is not available. Try again in a few seconds."),
        ServerBusyError(
            "The model has more photos waiting than it can take. Try again in a second."
        ),
        AnswerTimeoutError("The answer took too long. Try again later."),
    ),
)
async def identify(
    request: Request,
    query: Annotated[IdentifyOptions, Query()],
    identifier: Annotated[Identifier, Depends(_identifier)],
) -> Response:
    """Send a photo as a form file or as the body itself: JPEG, PNG, WebP or HEIC, up to 20 MB.

    Several files in one form (up to 32, 100 MB together) are answered in order, each with its own
    status: a bad photo does not touch the others. Photos are held in memory while they are
    answered and never stored.
    """
    request_id: str = request.state.request_id
    with identifier.upload_memory.lease() as lease:
        upload = await read_upload(request, identifier.settings, lease, _OPTION_NAMES)
        options = _options(query, upload.fields)
        answer: BaseModel
        if len(upload.photos) == 1:
            answer = await identifier.one(upload.photos[0], options, request_id)
        else:
            answer = await identifier.several(upload.photos, options, request_id)
    # Validated where it came in: no need for FastAPI to do it again.
    return Response(answer.model_dump_json(), media_type="application/json")
