"""See what the augmentations of a configuration do, before a GPU spends a night on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from lightning_train.callbacks.augmentation import Augmentation
from lightning_train.data import Batch, CarDataModule
from lightning_train.data.storage import decode_photos

__all__ = ["draw_contact_sheet"]

_BATCH = 32  # photos that a draw can mix with
_CELL = 1.62  # inches
_CAPTION = 0.42
_TITLE = 0.95
_GAP = 0.1
_LINE = 34  # characters under a photo
_DPI = 144


def draw_contact_sheet(
    data: CarDataModule,
    callbacks: Sequence[Callback],
    class_names: Sequence[str],
    out: Path = Path("augmentations.png"),
    photos: int = 6,
    draws: int = 7,
    epoch: int = 0,
) -> Path:
    """Draw training photos, each beside what `fit` would make of it.

    A row is a photo: first as it comes, then one independent draw after another through all the
    augmentations in their order. Where photos are mixed, the caption says what the target is.
    Only the photos that are shown, and a few to mix them with, are decoded.

    Args:
        data: where the photos come from.
        callbacks: a trainer's; those that are augmentations act in their order.
        class_names: the classes in order.
        out: a .png (or .pdf, .svg) to write; its folder is made.
        photos: rows.
        draws: columns beside the photo itself.
        epoch: whose training size `ZoomAugmentation` is to take.

    Returns:
        The file that was written.

    Raises:
        ValueError: no augmentation to show, or nothing to show it on.
        DatasetError: no training photos.
    """
    augmentations = [callback for callback in callbacks if isinstance(callback, Augmentation)]
    if not augmentations:
        raise ValueError(
            "the configuration has no augmentation to show: list some under trainer.callbacks, "
            "e.g. lightning_train.callbacks.GeometricAugmentation"
        )
    if photos < 1 or draws < 1:
        raise ValueError(f"a contact sheet has at least 1 photo and 1 draw; got {photos}, {draws}")
    samples = data.dataset("train").samples
    some = [samples[i] for i in torch.randperm(len(samples))[: max(photos, _BATCH)].tolist()]
    decoded, _ = decode_photos(some, data.preprocessing, torch.device("cpu"), threads=2)
    photos = min(photos, len(decoded))
    if not photos:
        raise ValueError(f"none of the photos that were drawn from {data.root} is readable")

    figure, cells = _sheet(photos, draws + 1)
    for row in range(photos):
        label = int(decoded.labels[row])
        _show(cells[row][0], decoded.images[row], _short(class_names[label]), weight="bold")
    for column in range(1, draws + 1):
        batch: Batch = {"image": decoded.images, "label": decoded.labels}
        for augmentation in augmentations:
            augmentation.apply(batch, classes=len(class_names), epoch=epoch)
        for row in range(photos):
            caption = ""
            if "target" in batch:
                caption = _mixture(batch["target"][row], int(decoded.labels[row]), class_names)
            _show(cells[row][column], batch["image"][row], caption)
    names = " → ".join(type(a).__name__.removesuffix("Augmentation") for a in augmentations)
    side = batch["image"].shape[-1]
    _write(figure, 0.3, "What training sees", size=13)
    _write(figure, 0.55, f"{names}, each draw by itself; {side} px in epoch {epoch}", size=8.5)
    cells[0][0].set_title("as it comes", loc="left", size=6.5, color="0.35", pad=3)
    cells[0][1].set_title("draws", loc="left", size=6.5, color="0.35", pad=3)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=_DPI)
    return out


def _sheet(rows: int, columns: int) -> tuple[Figure, list[list[Axes]]]:
    """An empty sheet, and its cells by row and column."""
    width = columns * (_CELL + _GAP) + 2 * _GAP
    height = _TITLE + rows * (_CELL + _CAPTION)
    figure = Figure(figsize=(width, height), facecolor="white")

    def cell(row: int, column: int) -> Axes:
        # The photo as it comes stands a little apart.
        left = _GAP + column * (_CELL + _GAP) + (_GAP if column else 0)
        bottom = height - _TITLE - row * (_CELL + _CAPTION) - _CELL
        return figure.add_axes((left / width, bottom / height, _CELL / width, _CELL / height))

    return figure, [[cell(row, column) for column in range(columns)] for row in range(rows)]


def _write(figure: Figure, below: float, text: str, size: float) -> None:
    """A line of text, so many inches below the upper edge."""
    x, y = _GAP / figure.get_figwidth(), 1 - below / figure.get_figheight()
    figure.text(x, y, text, size=size, color="0.2")


def _show(cell: Axes, image: Tensor, caption: str, weight: str = "normal") -> None:
    cell.imshow(image.permute(1, 2, 0).numpy())
    cell.set_axis_off()
    cell.annotate(
        caption,
        (0, -0.03),
        xycoords="axes fraction",
        va="top",
        size=5.5,
        weight=weight,
        color="0.2",
    )


def _short(text: str) -> str:
    return text if len(text) <= _LINE else text[: _LINE - 1].rstrip() + "…"


def _mixture(target: Tensor, label: int, class_names: Sequence[str]) -> str:
    """What a target [C] is made of, if it is not the label: "62 % Audi TTS + 38 % BMW X5"."""
    shares, classes = target.topk(min(3, len(target)))
    parts = [
        f"{100 * share:.0f} % {class_names[number]}"
        for share, number in zip(shares.tolist(), classes.tolist(), strict=True)
        if share >= 0.005
    ]
    if len(parts) == 1 and int(classes[0]) == label:
        return ""
    return "\n+ ".join(_short(part) for part in parts)
