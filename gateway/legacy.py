"""`/cars/v1/get_car_details`: the address of this service's predecessor, for its callers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import HTMLResponse, Response

from gateway.access import UPLOAD_REFUSALS
from gateway.body_description import PHOTO_REFUSALS, form_body
from gateway.errors import TooManyPhotosError, error_responses
from gateway.identify import Identifier, identifier_of
from gateway.options import IdentifyOptions
from gateway.schemas import LegacyAnswer

__all__ = ["router"]

# Without style and script, and thus under any content security policy.
_FORM = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Car details</title>
</head>
<body>
<h1>Which car is it?</h1>
<form method="post" enctype="multipart/form-data">
<p><label for="file">A photo of the car (JPEG, PNG, WebP or HEIC, up to 20 MB)</label></p>
<p><input type="file" id="file" name="file" accept="image/*,.heic,.heif" required></p>
<p><button>Upload</button></p>
</form>
<p>The answer comes as JSON. There is also <a href="../../">a page</a> that shows it, and asks for
an API key where one is needed, and <a href="../../swagger/">the documentation</a>.</p>
</body>
</html>
"""

_ONE_PHOTO = "This address takes one photo. Send several to /v1/identify."

router = APIRouter(tags=["predecessor"])


@router.get(
    "/cars/v1/get_car_details",
    summary="A form to upload a photo with",
    response_class=HTMLResponse,
)
async def upload_form() -> HTMLResponse:
    """A small web page whose form posts to this same address."""
    return HTMLResponse(_FORM)


@router.post(
    "/cars/v1/get_car_details",
    summary="Make, model and year, under the predecessor's address",
    response_model=LegacyAnswer,
    openapi_extra={"requestBody": form_body(max_photos=1)},
    responses=error_responses(
        *UPLOAD_REFUSALS,
        *PHOTO_REFUSALS,
        TooManyPhotosError(_ONE_PHOTO),
    ),
)
async def get_car_details(
    request: Request,
    query: Annotated[IdentifyOptions, Query()],
    identifier: Annotated[Identifier, Depends(identifier_of)],
) -> Response:
    """One photo in a form; the answer of `/v1/identify`, and `class` and `car_details` with it."""
    async with identifier.question(request, query) as question:
        if len(question.photos) > 1:
            raise TooManyPhotosError(_ONE_PHOTO)
        answer = await identifier.one(question)
    return Response(
        LegacyAnswer.of(answer).model_dump_json(by_alias=True), media_type="application/json"
    )
