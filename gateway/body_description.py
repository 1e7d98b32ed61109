"""The bodies that photos come in, and how they may be refused, in OpenAPI's words.

Bodies are read as streams (body.py), so FastAPI can't know.
"""

from __future__ import annotations

import base64
from typing import Any

from gateway.errors import (
    AnswerTimeoutError,
    BodyTooLargeError,
    BodyUnreadableError,
    ImageMissingError,
    ImageTooLargeError,
    InvalidOptionError,
    ModelUnavailableError,
    PhotoRefusedError,
    ServerBusyError,
    UnknownVersionError,
    UnsupportedMediaTypeError,
)
from gateway.health import probe_photo
from gateway.options import IdentifyOptions

__all__ = ["PHOTO_REFUSALS", "form_body", "identify_body"]

_MAX_PHOTOS = 32
_RAW_TYPES = ("image/jpeg", "image/png", "image/webp", "image/heic", "application/octet-stream")
# One that Swagger UI can send: it is answered.
_EXAMPLE_PHOTO = base64.b64encode(probe_photo(32)).decode()

PHOTO_REFUSALS = (
    ImageMissingError("The request holds no photo. Send it as a form file or as the body itself."),
    BodyUnreadableError("The multipart body breaks off before its end. Send it again."),
    UnknownVersionError("9.9"),
    ImageTooLargeError("The photo has more than 20 MB. Send it smaller."),
    BodyTooLargeError("The body has more than 100 MB. Send fewer photos at a time."),
    UnsupportedMediaTypeError("A body of type 'text/plain' holds no photo."),
    PhotoRefusedError(415, "unsupported_image_type", "Send a JPEG, PNG, WebP or HEIC photo."),
    PhotoRefusedError(422, "image_unreadable", "The JPEG image is damaged. Send the original."),
    InvalidOptionError("top_k: Input should be less than or equal to 20, not '99'."),
    ModelUnavailableError(),
    ServerBusyError(),
    AnswerTimeoutError(),
)


def identify_body() -> dict[str, Any]:
    """What `POST /v1/identify` takes."""
    raw = {"schema": {"type": "string", "format": "binary"}}
    return {
        "required": True,
        "content": {
            **form_body(_MAX_PHOTOS)["content"],
            "application/json": {"schema": _json()},
            **dict.fromkeys(_RAW_TYPES, raw),
        },
    }


def form_body(max_photos: int) -> dict[str, Any]:
    """A multipart form with that many photos at most."""
    photo = {"type": "string", "contentMediaType": "image/*"}
    several = {"type": "array", "items": photo, "minItems": 1, "maxItems": max_photos}
    description = "Files are photos, whatever their field names"
    schema = {
        "type": "object",
        "description": f"{description}; several are answered in order."
        if max_photos > 1
        else f"{description}.",
        "properties": {"file": several if max_photos > 1 else photo, **_options()},
        "required": ["file"],
        "additionalProperties": False,
    }
    return {"required": True, "content": {"multipart/form-data": {"schema": schema}}}


def _json() -> dict[str, Any]:
    photo = {
        "type": "string",
        "contentEncoding": "base64",
        "contentMediaType": "image/*",
        "description": "The photo file in standard base64; line breaks and a "
        "`data:image/jpeg;base64,` before it do no harm.",
        "examples": [_EXAMPLE_PHOTO],
    }
    several = {"type": "array", "items": photo, "minItems": 1, "maxItems": _MAX_PHOTOS}
    options = _options()
    box = options["box"]
    number = {"type": "integer", "minimum": 0, "maximum": 999_999_999}
    options["box"] = {
        "description": box["description"],
        "examples": [[12, 8, 600, 420]],
        "anyOf": [
            {"type": "array", "format": "box", "items": number, "minItems": 4, "maxItems": 4},
            {key: box[key] for key in ("type", "format", "pattern")},
        ],
    }
    return {
        "type": "object",
        "properties": {"image": photo, "images": several, **options},
        "oneOf": [{"required": ["image"]}, {"required": ["images"]}],
        "additionalProperties": False,
        "examples": [{"image": _EXAMPLE_PHOTO, "top_k": 3}],
    }


def _options() -> dict[str, Any]:
    properties: dict[str, Any] = IdentifyOptions.model_json_schema()["properties"]
    return properties
