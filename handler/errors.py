"""What can go wrong, as a small hierarchy.

    CarIdentifierError
    ├── ArchiveError                  the archive is missing, damaged or computes something else
    └── PhotoError                    one photo, or the options sent with it, can't be answered
        ├── ImageMissingError         400 image_missing
        ├── ImageTooLargeError        413 image_too_large
        ├── UnsupportedImageTypeError 415 unsupported_image_type
        ├── ImageUnreadableError      422 image_unreadable
        ├── InvalidOptionError        422 invalid_option
        └── PhotoTimeoutError         504 timeout

A `PhotoError` is the answer to one photo: it never touches the others of its batch.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

__all__ = [
    "ArchiveError",
    "CarIdentifierError",
    "ImageMissingError",
    "ImageTooLargeError",
    "ImageUnreadableError",
    "InvalidOptionError",
    "PhotoError",
    "PhotoTimeoutError",
    "UnsupportedImageTypeError",
]


class CarIdentifierError(Exception):
    """Base of every error that this package raises on purpose."""


class ArchiveError(CarIdentifierError):
    """The archive can't be served; the message says why and what to do."""


class PhotoError(CarIdentifierError):
    """One photo can't be answered.

    Attributes:
        code: the machine-readable name of the error.
        status: the HTTP status it travels with.
        message: what is wrong and what to do about it, for the sender of the photo.
    """

    code: ClassVar[str]
    status: ClassVar[int]

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def detached(self) -> Self:
        """Itself, without the traceback: for an error that is kept as an answer.

        A traceback holds the frames it came through, with all their variables: the photos of the
        batch, and the very list that the error is put into. Such a circle is freed by nothing but
        Python's garbage collector, which comes by after thousands of photos.
        """
        self.__traceback__ = self.__cause__ = self.__context__ = None
        return self

    def to_json(self, request_id: str | None = None) -> dict[str, Any]:
        """The error of the public contract, as plain data."""
        return {
            "error": {"code": self.code, "message": self.message},
            "request_id": request_id,
        }


class ImageMissingError(PhotoError):
    """The request holds no photo."""

    code = "image_missing"
    status = 400


class ImageTooLargeError(PhotoError):
    """Too many bytes, or too many pixels once decoded."""

    code = "image_too_large"
    status = 413


class UnsupportedImageTypeError(PhotoError):
    """The bytes are no image, or an image of a type that is not read."""

    code = "unsupported_image_type"
    status = 415


class ImageUnreadableError(PhotoError):
    """The bytes begin like an image of a known type but can't be decoded."""

    code = "image_unreadable"
    status = 422


class InvalidOptionError(PhotoError):
    """An option sent with the photo has an impossible value."""

    code = "invalid_option"
    status = 422


class PhotoTimeoutError(PhotoError):
    """The photo's turn did not come in time: others of its batch took too long to decode."""

    code = "timeout"
    status = 504
