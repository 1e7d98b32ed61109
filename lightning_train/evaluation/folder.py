"""The report folder: metrics.json, pictures and one page that shows them."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import matplotlib as mpl
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from lightning_train.data import Split
from lightning_train.evaluation import plots
from lightning_train.evaluation.curves import TrainingCurves
from lightning_train.evaluation.report import figure_name, format_figure
from lightning_train.evaluation.result import Evaluation

__all__ = ["Subject", "command_line", "write_report"]

_LISTED_CLASSES = 10
_SPLIT_NAMES = {
    "train": "training photos",
    "val": "validation photos",
    "test": "test photos",
}


@dataclass(frozen=True, slots=True)
class Subject:
    """What was measured, for the head of the page and of metrics.json.

    Attributes:
        kind: "archive" or "checkpoint".
        path: where it lies; what to call it if it lies nowhere.
        network: name of the network.
        split: the photos it was scored on.
        facts: more of it, e.g. "version" → "1.0".
        config: text of the configuration that made it, None if unknown.
        epoch: epochs done when it was measured, of a training run.
    """

    kind: str
    path: str
    network: str
    split: Split
    facts: Mapping[str, str] = field(default_factory=dict)
    config: str | None = None
    epoch: int | None = None


def write_report(
    folder: Path, subject: Subject, evaluation: Evaluation, curves: TrainingCurves | None = None
) -> list[str]:
    """Write `metrics.json`, the pictures and `index.html`; what an older report left is removed.

    Args:
        folder: made if it is not there; other files in it are left alone.
        subject: what was measured.
        evaluation: what came out.
        curves: of the training run, if there was one.

    Returns:
        What went wrong with single pictures, a sentence each: they are missing from the page.

    Raises:
        ValueError: `folder` is a file.
        OSError: the folder cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: name a folder for the report")
    folder.mkdir(parents=True, exist_ok=True)
    measured = datetime.now(UTC).replace(microsecond=0)
    content = {
        subject.kind: subject.path,
        "network": subject.network,
        "split": subject.split,
        **subject.facts,
        "measured": measured.isoformat(),
        **evaluation.to_json(),
    }
    # Figures first: whatever happens to the pictures, they are there.
    (folder / "metrics.json").write_text(
        json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    drawings: dict[str, Callable[[], Figure | None]] = {
        "curves": lambda: plots.draw_curves(curves, subject.epoch) if curves else None,
        "reliability": lambda: plots.draw_reliability(evaluation),
        "worst_classes": lambda: plots.draw_worst_classes(evaluation),
        "confused_pairs": lambda: plots.draw_confused_pairs(evaluation),
        "class_size": lambda: plots.draw_class_size(evaluation),
    }
    drawn, problems = set(), []
    for name, draw in drawings.items():
        path = folder / f"{name}.png"
        path.unlink(missing_ok=True)
        try:
            with mpl.rc_context(plots.STYLE):
                figure = draw()
                if figure is not None:
                    figure.savefig(path)
                    drawn.add(name)
        except Exception as error:  # a picture is not worth the figures of a night's run
            path.unlink(missing_ok=True)
            problems.append(f"{path.name} could not be drawn: {error or type(error).__name__}")
    (folder / "index.html").write_text(
        _page(subject, evaluation, measured, drawn, problems), encoding="utf-8"
    )
    return problems


def _page(
    subject: Subject,
    evaluation: Evaluation,
    measured: datetime,
    drawn: set[str],
    problems: list[str],
) -> str:
    environment = Environment(
        loader=PackageLoader("lightning_train.evaluation", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure_name"] = figure_name
    template = environment.get_template("report.html.jinja")
    taken_for: dict[int, str] = {}
    for confusion in evaluation.confusions():  # the most frequent first
        taken_for.setdefault(confusion.truth, evaluation.labels[confusion.answer].label)
    return template.render(
        subject=subject,
        names=_SPLIT_NAMES,
        evaluation=evaluation,
        figures=evaluation.figures(),
        outside=evaluation.outside_figures(),
        taken_for=taken_for,
        worst=evaluation.worst_classes()[:_LISTED_CLASSES],
        mistakes=int((evaluation.answers != evaluation.truth).sum()),
        measured=measured.strftime("%Y-%m-%d %H:%M UTC"),
        command=command_line(),
        drawn=drawn,
        problems=problems,
        format=format_figure,
    )


def command_line() -> str:
    """The command that is running, as one would type it."""
    program = Path(sys.argv[0])
    if program.name == "__main__.py":
        return shlex.join(["python", "-m", program.parent.name, *sys.argv[1:]])
    return shlex.join([program.name, *sys.argv[1:]])
