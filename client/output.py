"""Answers on a terminal: a table for people, JSON lines and CSV for programs."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from client.management import Version
from client.types import Answer, LabelTable, Prediction

__all__ = [
    "CsvLines",
    "Failure",
    "Outcome",
    "answer_table",
    "console",
    "json_lines",
    "label_table",
    "version_table",
]

# Wide enough for any row: nothing is cut or folded where no eye but a program's reads it.
_PIPED_WIDTH = 1000
_VERDICTS = {
    "identified": Text("identified", "green"),
    "uncertain": Text("uncertain", "yellow"),
    "not_a_car": Text("not a car", "yellow"),
}


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a photo has no answer.

    Attributes:
        code: the API's, "proxy_error" or "unreadable_file".
        message: for people.
    """

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one photo.

    Attributes:
        photo: its file.
        result: the answer, or why there is none.
        heatmap_file: where its heatmap was written, if it was.
    """

    photo: str
    result: Answer | Failure
    heatmap_file: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As `{"photo", "answer"}` or `{"photo", "error"}`; a heatmap's picture by its file."""
        content = asdict(self.result)
        if isinstance(self.result, Failure):
            return {"photo": self.photo, "error": content}
        heatmap = content.pop("heatmap")
        if heatmap:
            del heatmap["png"]
            content["heatmap"] = {**heatmap, "file": self.heatmap_file}
        return {"photo": self.photo, "answer": content}


class CsvLines:
    """Outcomes as lines of CSV, below a line of headings."""

    _ANSWER = ("verdict", "label", "make", "model", "body", "year", "class_id", "confidence")
    _MORE = ("make_confidence", "model_version")
    _HEADINGS = ("photo", *_ANSWER, *_MORE, "warnings", "heatmap_file", "error_code", "error")

    def __init__(self) -> None:
        self._begun = False

    def line(self, outcome: Outcome) -> str:
        """The outcome's line, after the headings if it is the first."""
        row: dict[str, Any] = {"photo": outcome.photo, "heatmap_file": outcome.heatmap_file}
        result = outcome.result
        if isinstance(result, Failure):
            row |= {"error_code": result.code, "error": result.message}
        else:
            row |= {name: getattr(result, name) for name in (*self._ANSWER, *self._MORE)}
            row["warnings"] = " ".join(result.warnings)
        text = io.StringIO()
        writer = csv.DictWriter(text, self._HEADINGS, lineterminator="\n")
        if not self._begun:
            writer.writeheader()
            self._begun = True
        writer.writerow(row)
        return text.getvalue().removesuffix("\n")


def console() -> Console:
    """Standard output; as wide as it takes where that is no terminal."""
    return Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH)


def json_lines(entries: Iterable[dict[str, Any]]) -> str:
    """One entry a line."""
    return "\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)


def answer_table(outcomes: Sequence[Outcome], *, predictions: int = 1) -> Table:
    """One row per photo, and one for each further prediction, up to `predictions` in all."""
    table = _table()
    # Folded, never cut: the end of a file name is what tells photos apart.
    table.add_column("Photo", overflow="fold")
    table.add_column("Car", overflow="fold")
    table.add_column("Year", justify="right", no_wrap=True)
    table.add_column("Confidence", justify="right", no_wrap=True)
    table.add_column("Verdict", no_wrap=True)
    for photo, outcome in zip(_short_names(outcomes), outcomes, strict=True):
        answer = outcome.result
        if isinstance(answer, Failure):
            table.add_row(photo, Text(answer.message, "red"), "", "", Text("failed", "red"))
            continue
        verdict = _VERDICTS.get(answer.verdict, Text(answer.verdict))
        if answer.verdict == "not_a_car" and predictions == 1:
            table.add_row(photo, Text("–"), "", "", verdict)
        else:
            best, *others = answer.predictions[:predictions]
            table.add_row(photo, *_cells(best), verdict)
            for other in others:
                table.add_row("", *_cells(other), "", style="dim")
        if answer.verdict == "uncertain":
            make = f"{answer.make} of some kind: {_percent(answer.make_confidence)}"
            table.add_row("", Text(make, "dim"))
        for warning in answer.warnings:
            table.add_row("", Text(warning, "dim"))
    return table


def label_table(labels: LabelTable) -> Table:
    """All car models, one a row."""
    table = _table(caption=f"{len(labels.labels)} car models, model version {labels.model_version}")
    table.add_column("Id", justify="right", no_wrap=True)
    for heading in ("Make", "Model", "Body"):
        table.add_column(heading, overflow="fold")
    table.add_column("Year", justify="right", no_wrap=True)
    for car in labels.labels:
        table.add_row(str(car.class_id), car.make, car.model, car.body or "", str(car.year))
    return table


def version_table(versions: Sequence[Version], canary: tuple[str, float] | None) -> Table:
    """The registered versions, one a row."""
    table = _table(caption=None if versions else "no version is registered")
    for heading in ("Version", "Serves"):
        table.add_column(heading, no_wrap=True)
    for heading in ("Workers ready", "Waiting"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("Archive", overflow="fold")
    for it in versions:
        serves = "by its number"
        if it.default:
            serves = "default"
        elif canary and canary[0] == it.version:
            serves = f"canary, {canary[1]:.0%}"
        workers = Text(f"{it.ready} of {it.workers}", "" if it.ready else "red")
        table.add_row(it.version, serves, workers, str(it.waiting), Text(it.archive))
    return table


def _table(caption: str | None = None) -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=caption, caption_justify="left")


def _short_names(outcomes: Sequence[Outcome]) -> list[Text]:
    """File names where they tell the photos apart, and whole paths where they don't."""
    names = [PurePath(outcome.photo).name for outcome in outcomes]
    if len(set(names)) < len({outcome.photo for outcome in outcomes}):
        names = [outcome.photo for outcome in outcomes]
    return [Text(name) for name in names]


def _cells(prediction: Prediction) -> tuple[Text, str, str]:
    name = " ".join(filter(None, (prediction.make, prediction.model, prediction.body)))
    return Text(name), str(prediction.year), _percent(prediction.confidence)


def _percent(probability: float) -> str:
    # 0.997 is not certainty, and 0.003 not impossibility.
    percent = min(round(100 * probability), 99)
    return f"{percent} %" if percent else "<1 %"
