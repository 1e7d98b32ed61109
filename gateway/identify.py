"""`POST /v1/identify`: photos in, answers out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel
from starlette.responses import Response

from gateway.body import read_upload
from gateway.body_description import PHOTO_REFUSALS, identify_body
from gateway.canary import Canary, Trial
from gateway.errors import GatewayError, TooManyPhotosError, UnknownVersionError, error_responses
from gateway.options import IdentifyOptions, combined_options
from gateway.retiring import Retiring
from gateway.schemas import Answer, AnsweredPhoto, RefusedPhoto, Results
from gateway.settings import Settings
from gateway.uploads import Photo, UploadMemory
from gateway.upstream import TorchServe

__all__ = ["Identifier", "Question", "identifier_of", "router"]


@dataclass(frozen=True, slots=True)
class Question:
    """What a request asks of each of its photos.

    Attributes:
        photos: at least one.
        options: what was asked for.
        request_id: the request's.
        trial: the canary that shall answer; None for the version that was asked for.
    """

    photos: tuple[Photo, ...]
    options: IdentifyOptions
    request_id: str
    trial: Trial | None


class Identifier:
    """Has the photos of a request answered, a few at a time.

    Args:
        upstream: who answers.
        canary: who answers some instead.
        retiring: who answers nobody any more.
        memory: pays for uploads.
        settings: the limits.
        count: is told of every photo's answer or error.
    """

    def __init__(
        self,
        upstream: TorchServe,
        canary: Canary,
        retiring: Retiring,
        memory: UploadMemory,
        settings: Settings,
        count: Callable[[Answer | GatewayError], None],
    ) -> None:
        self._upstream = upstream
        self._canary = canary
        self._retiring = retiring
        self._memory = memory
        self._settings = settings
        self._count = count

    @asynccontextmanager
    async def question(self, request: Request, query: IdentifyOptions) -> AsyncIterator[Question]:
        """Read what a request asks, and hold its photos in memory inside the `with` block.

        Raises:
            GatewayError: it can't be taken, or is more than its sender may ask.
        """
        with self._memory.lease() as lease:
            upload = await read_upload(request, self._settings, lease)
            options = combined_options(request, query, upload.options)
            # One was counted when the request began.
            request.state.allowance.take(len(upload.photos) - 1, taken=1)
            trial = self._canary.draw() if options.version is None else None
            yield Question(upload.photos, options, request.state.request_id, trial)

    async def one(self, question: Question) -> Answer:
        """Answer the question's only photo.

        Raises:
            GatewayError: why it has no answer.
        """
        return await self._answer(question, question.photos[0], question.request_id)

    async def several(self, question: Question) -> Results:
        """Answer several photos, each by itself and in order.

        Raises:
            GatewayError: what is wrong with the request as a whole; or why none could be answered,
                where the reason is the server's and not theirs.
        """
        free = asyncio.Semaphore(self._settings.photos_in_flight)

        async def outcome(index: int, photo: Photo) -> Answer | GatewayError:
            async with free:
                try:
                    return await self._answer(question, photo, f"{question.request_id}-{index}")
                except GatewayError as error:
                    return error

        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(outcome(index, photo))
                for index, photo in enumerate(question.photos, 1)
            ]
        outcomes = [task.result() for task in tasks]
        _raise_if_not_the_photos(outcomes)
        return Results(
            results=[
                RefusedPhoto(status=outcome.status, filename=photo.filename, error=outcome.detail)
                if isinstance(outcome, GatewayError)
                else AnsweredPhoto(filename=photo.filename, answer=outcome)
                for photo, outcome in zip(question.photos, outcomes, strict=True)
            ],
            request_id=question.request_id,
        )

    async def _answer(self, question: Question, photo: Photo, request_id: str) -> Answer:
        try:
            if photo.refusal:
                raise photo.refusal
            if question.trial:
                answer = await self._canary.identify(
                    question.trial, photo.data, question.options, request_id
                )
            else:
                self._retiring.check(question.options.version)
                answer = await self._upstream.identify(photo.data, question.options, request_id)
        except GatewayError as error:
            self._count(error)
            raise
        self._count(answer)
        return answer


def _raise_if_not_the_photos(outcomes: Sequence[Answer | GatewayError]) -> None:
    """Raise what is wrong with the request as a whole, or with the server."""
    errors = [outcome for outcome in outcomes if isinstance(outcome, GatewayError)]
    for error in errors:
        if isinstance(error, UnknownVersionError):
            raise error
    if len(errors) == len(outcomes) and all(
        error.status >= HTTPStatus.INTERNAL_SERVER_ERROR for error in errors
    ):
        raise errors[0]


def identifier_of(request: Request) -> Identifier:
    """The application's, for a route."""
    identifier: Identifier = request.app.state.identifier
    return identifier


router = APIRouter(tags=["identify"])


@router.post(
    "/v1/identify",
    summary="Make, model and year of the car on a photo",
    response_model=Answer | Results,
    response_description="One photo: its answer. Several: the answer or error of each, in order.",
    openapi_extra={"requestBody": identify_body()},
    responses=error_responses(
        *PHOTO_REFUSALS,
        TooManyPhotosError("One request takes at most 32 photos. Send the others in another one."),
    ),
)
async def identify(
    request: Request,
    query: Annotated[IdentifyOptions, Query()],
    identifier: Annotated[Identifier, Depends(identifier_of)],
) -> Response:
    """Send a photo as a form file, as the body itself, or in JSON as base64.

    JPEG, PNG, WebP or HEIC, up to 20 MB. Options stand in the address, in the form, or in the JSON
    object, each once.

    Several photos in one form or JSON list (up to 32, 100 MB together) are answered in order, each
    with its own status: a bad photo does not touch the others. Photos are held in memory while they
    are answered and never stored.
    """
    async with identifier.question(request, query) as question:
        answer: BaseModel
        if len(question.photos) == 1:
            answer = await identifier.one(question)
        else:
            answer = await identifier.several(question)
    # Validated where it came in: no need for FastAPI to do it again.
    return Response(answer.model_dump_json(), media_type="application/json")
