"""Rectangles of a photo."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Box"]


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels of the photo as it is shown: upright, at its full size.

    Attributes:
        left: first column.
        top: first row.
        right: the column after the last; more than `left`.
        bottom: the row after the last; more than `top`.

    Raises:
        ValueError: it is empty.
    """

    left: int
    top: int
    right: int
    bottom: int

    def __post_init__(self) -> None:
        if self.left >= self.right or self.top >= self.bottom:
            raise ValueError(f"an empty box: {self}")

    @property
    def width(self) -> int:
        """In pixels."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """In pixels."""
        return self.bottom - self.top

    def clipped(self, width: int, height: int) -> Box | None:
        """The part of it that lies on a photo of this size; None if there is none."""
        left, right = max(self.left, 0), min(self.right, width)
        top, bottom = max(self.top, 0), min(self.bottom, height)
        return Box(left, top, right, bottom) if left < right and top < bottom else None

    def before_turning(self, width: int, height: int, orientation: int) -> Box:
        """The same rectangle on the photo as it is stored.

        Args:
            width: of the upright photo.
            height: of the upright photo.
            orientation: EXIF's, 1 to 8: how the stored photo is turned to stand upright.
        """
        left, top, right, bottom = self.left, self.top, self.right, self.bottom
        if orientation in (2, 3, 6, 7):
            left, right = width - right, width - left
        if orientation in (3, 4, 7, 8):
            top, bottom = height - bottom, height - top
        if orientation >= 5:
            left, top, right, bottom = top, left, bottom, right
        return Box(left, top, right, bottom)

    def scaled(self, old: tuple[int, int], new: tuple[int, int]) -> Box:
        """The pixels it covers, all or in part, once a photo of size `old` has size `new`."""
        (width, height), (new_width, new_height) = old, new
        return Box(
            self.left * new_width // width,
            self.top * new_height // height,
            -(-self.right * new_width // width),
            -(-self.bottom * new_height // height),
        )
