"""See where an archive looks: photos with their heatmaps, on one sheet."""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from handler.answer import Answer
from handler.archive import extract_archive
from handler.decode import DecodedPhoto, decode_photo
from handler.errors import PhotoError
from handler.identifier import CarIdentifier
from handler.options import Options
from lightning_train.data import IMAGE_SUFFIXES

__all__ = ["show_explanations"]

_COLUMNS = 5
_SIDE = 320  # pixels of a photo's longer side
_CELL = (2.5, 2.3)  # inches
_DPI = 110
_LINE = 34  # characters under a photo


def show_explanations(
    archive: Path, photos: Path, out: Path = Path("explanations.jpg"), count: int = 10
) -> None:
    """Draw photos with their heatmaps and answers.

    Args:
        archive: the .mar.
        photos: a photo, or a folder that is searched through all levels; of more than `count` some
            are drawn, evenly spread over the file names.
        out: a .jpg, .png, .pdf or .svg to write; its folder is made.
        count: photos on the sheet.
    """
    if count < 1:
        raise ValueError(f"a sheet has at least 1 photo, not {count}")
    chosen = _choose(photos, count)
    with extract_archive(archive) as directory:
        identifier = CarIdentifier.from_directory(directory)
        data = [path.read_bytes() for path in chosen]
        answers = identifier.identify(data, [Options(top_k=1, explain=True)] * len(data))
    rows = -(-len(chosen) // _COLUMNS)
    columns = min(len(chosen), _COLUMNS)
    figure = Figure(figsize=(columns * _CELL[0], rows * _CELL[1]), layout="constrained")
    for place, (path, file, answer) in enumerate(zip(chosen, data, answers, strict=True), 1):
        axes = figure.add_subplot(rows, columns, place)
        axes.set_axis_off()
        if isinstance(answer, PhotoError):
            caption = f"{path.name}: {answer.message}"
        else:
            photo = decode_photo(file, min_side=_SIDE)  # whatever can be answered can be drawn
            axes.imshow(np.asarray(_with_heatmap(photo, answer)))
            if answer.region.source == "found":
                axes.add_patch(_frame(photo, answer))
            caption = (
                f"{answer.predictions[0].label.label}, "
                f"{answer.predictions[0].confidence:.0%}, {answer.verdict}"
            )
        axes.annotate(
            textwrap.fill(caption, _LINE),
            (0.5, 0),
            xytext=(0, -4),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="center",
            va="top",
            size=8,
            color="0.2",
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=_DPI)
    print(f"written to {out}")


def _choose(photos: Path, count: int) -> Sequence[Path]:
    if photos.is_file():
        return [photos]
    found = sorted(path for path in photos.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise ValueError(f"no photos in {photos}: name a photo, or a folder that holds some")
    places = np.linspace(0, len(found) - 1, min(count, len(found))).round().astype(int)
    return [found[place] for place in places]


def _scale(photo: DecodedPhoto) -> float:
    return _SIDE / max(photo.size)


def _with_heatmap(photo: DecodedPhoto, answer: Answer) -> Image.Image:
    assert answer.heatmap is not None  # noqa: S101  (it was asked for)
    width, height = (max(1, round(side * _scale(photo))) for side in photo.size)
    # As whoever asked over HTTP would do: the PNG stretched over the photo.
    overlay = base64.b64decode(answer.heatmap.to_json()["png"])
    with Image.open(io.BytesIO(overlay)) as png:
        stretched = png.convert("RGBA").resize((width, height), Image.Resampling.BILINEAR)
    drawn = photo.image.resize((width, height)).convert("RGBA")
    return Image.alpha_composite(drawn, stretched).convert("RGB")


def _frame(photo: DecodedPhoto, answer: Answer) -> Rectangle:
    box, scale = answer.region.box, _scale(photo)
    return Rectangle(
        (box.left * scale, box.top * scale),
        box.width * scale,
        box.height * scale,
        fill=False,
        edgecolor="white",
        linewidth=1.5,
    )
