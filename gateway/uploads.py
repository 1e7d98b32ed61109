"""Photos on their way from a request to the model, and the memory they take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from gateway.errors import GatewayError, ImageTooLargeError, ServerBusyError, TooManyPhotosError
from gateway.options import IdentifyOptions
from gateway.settings import MEGABYTE, Settings

__all__ = [
    "HOW_TO_SEND",
    "Lease",
    "Photo",
    "Upload",
    "UploadMemory",
    "megabytes",
    "photo_too_large",
    "too_many_photos",
]

HOW_TO_SEND = (
    "Send it as a form file (curl -F file=@photo.jpg URL) or as the body itself "
    "(curl -H 'Content-Type: image/jpeg' --data-binary @photo.jpg URL)."
)


@dataclass(frozen=True, slots=True)
class Photo:
    """One photo of a request.

    Attributes:
        data: the file as it was sent; empty where it was refused.
        filename: as it was sent; None outside of forms.
        refusal: why the photo can't even be passed on; None where it can.
    """

    data: bytes
    filename: str | None = None
    refusal: GatewayError | None = None


@dataclass(frozen=True, slots=True)
class Upload:
    """What a request's body held.

    Attributes:
        photos: in the order they were sent, at least one.
        options: those that stood beside them.
    """

    photos: tuple[Photo, ...]
    options: IdentifyOptions


class UploadMemory:
    """Bounds the bytes that all uploads together hold.

    Attributes:
        in_use: bytes that are held now.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self.in_use = 0

    @contextmanager
    def lease(self) -> Iterator[Lease]:
        """A share of the memory, given back at the end of the `with` block."""
        lease = Lease(self)
        try:
            yield lease
        finally:
            self.in_use -= lease.taken

    def take(self, size: int) -> None:
        """Take `size` bytes, or raise ServerBusyError."""
        if self.in_use + size > self._capacity:
            raise ServerBusyError("Too many uploads are under way. Try again in a second.")
        self.in_use += size


class Lease:
    """What one request has taken of the upload memory."""

    def __init__(self, memory: UploadMemory) -> None:
        self._memory = memory
        self.taken = 0

    def take(self, size: int) -> None:
        """Take `size` bytes more, or raise ServerBusyError."""
        self._memory.take(size)
        self.taken += size


def photo_too_large(settings: Settings) -> ImageTooLargeError:
    """One photo has too many bytes."""
    return ImageTooLargeError(
        f"The photo has more than {megabytes(settings.max_photo_bytes)}. Send it smaller: "
        "1000 pixels across are plenty."
    )


def too_many_photos(settings: Settings) -> TooManyPhotosError:
    """The request holds too many of them."""
    return TooManyPhotosError(
        f"One request takes at most {settings.max_photos} photos. Send the others in another one."
    )


def megabytes(size: int) -> str:
    """A number of bytes, for people."""
    return f"{size / MEGABYTE:g} MB"
