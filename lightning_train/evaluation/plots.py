"""The report's pictures: one function, one `Figure`, one style."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from lightning_train.data import Sample, load_crop
from lightning_train.evaluation.curves import Curve, TrainingCurves
from lightning_train.evaluation.metrics import Confusion, Reliability
from lightning_train.evaluation.result import ClassResult, Evaluation

__all__ = [
    "STYLE",
    "draw_class_size",
    "draw_confused_pairs",
    "draw_curves",
    "draw_reliability",
    "draw_worst_classes",
]

_BLUE, _ORANGE, _GREY, _INK = "#2563a8", "#d97925", "#9aa3ad", "#20262e"
STYLE: dict[Any, Any] = {
    "font.size": 10.5,
    "text.color": _INK,
    # A class name may hold a "$", and is no formula.
    "text.parse_math": False,
    "axes.edgecolor": _GREY,
    "axes.labelcolor": _INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e9ed",
    "xtick.color": "#56606b",
    "ytick.color": "#56606b",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "savefig.dpi": 150,
}

_WIDTH = 8.0  # inches
_WORST = 20
_PAIRS = 8
_TILE = 224  # pixels a photo is shown with
_LINE = 26  # characters that fit above it


def draw_curves(curves: TrainingCurves, reported_epoch: int | None = None) -> Figure:
    """Learning rate, losses and validation top-1 over the epochs.

    Args:
        curves: what the run logged.
        reported_epoch: epochs done when the reported figures were measured; marked.
    """
    figure = Figure(figsize=(_WIDTH, 7.2))
    axes: Sequence[Axes] = figure.subplots(3, 1, sharex=True, height_ratios=(1, 1.5, 1.5))
    rate, loss, accuracy = axes
    groups = sorted(curves.learning_rates(), key=lambda curve: float(curve.values.max()))
    if groups:
        _line(rate, groups[-1], _BLUE, "highest group" if len(groups) > 1 else None)
        if len(groups) > 1 and groups[0].values.max() < groups[-1].values.max():
            _line(rate, groups[0], _GREY, "lowest group")
            rate.legend(loc="best")
    rate.set_title("Learning rate")
    rate.yaxis.set_major_formatter("{x:g}")
    rate.set_ylim(bottom=0)

    steps = curves.first_of("train/loss_step")
    if steps is not None:
        loss.plot(steps.epochs, steps.values, color=_BLUE, alpha=0.25, linewidth=0.8)
    _line(loss, curves.first_of("train/loss_epoch", "train/loss"), _BLUE, "training, as optimised")
    _line(loss, curves.first_of("val/loss"), _ORANGE, "validation, cross-entropy")
    loss.set_title("Loss")
    loss.set_ylim(bottom=0)
    loss.legend(loc="upper right")

    top1 = curves.first_of("val/top1")
    _line(accuracy, top1, _ORANGE)
    accuracy.set_title("Validation top-1")
    accuracy.yaxis.set_major_formatter(_percent())
    if top1 is not None and reported_epoch is not None:
        nearest = int(np.abs(top1.epochs - reported_epoch).argmin())
        point = (float(top1.epochs[nearest]), float(top1.values[nearest]))
        accuracy.plot(*point, "o", color=_ORANGE, markersize=9, markeredgecolor="white")
        accuracy.annotate(
            f"reported: {_share(point[1])}", point, xytext=(-8, -16), textcoords="offset points",
            ha="right", va="top", color=_INK,
        )  # fmt: skip
    accuracy.set_xlabel("epochs")
    accuracy.xaxis.set_major_locator(MaxNLocator(integer=True))
    accuracy.set_xlim(left=0)
    steps_per_epoch = curves.steps_per_epoch

    def to_steps(epochs: Any) -> Any:
        return epochs * steps_per_epoch

    def to_epochs(steps: Any) -> Any:
        return steps / steps_per_epoch

    above = rate.secondary_xaxis("top", functions=(to_steps, to_epochs))
    above.set_xlabel("steps")
    return figure


def _line(axes: Axes, curve: Curve | None, color: str, label: str | None = None) -> None:
    """A curve, with its points where they are few enough to be told apart."""
    if curve is not None:
        marker = "o" if len(curve.values) <= 40 else ""
        axes.plot(curve.epochs, curve.values, color=color, label=label, marker=marker, markersize=4)


def draw_reliability(evaluation: Evaluation) -> Figure:
    """Accuracy against confidence before and after temperature scaling, and how many photos."""
    figure = Figure(figsize=(_WIDTH, 5.2))
    axes = figure.subplots(
        2, 2, sharex=True, sharey="row", height_ratios=(3, 1), gridspec_kw={"wspace": 0.08}
    )
    columns = [
        ("As the network says it", evaluation.reliability(calibrated=False), _ORANGE),
        (
            f"Divided by the temperature, {evaluation.temperature.value:.2f}",
            evaluation.reliability(calibrated=True),
            _BLUE,
        ),
    ]
    for (title, found, color), (diagram, histogram) in zip(columns, axes.T, strict=True):
        _reliability_diagram(diagram, found, color)
        diagram.set_title(f"{title}\ncalibration error {_share(found.calibration_error)}")
        width = 1 / len(found.photos)
        centres = (np.arange(len(found.photos)) + 0.5) * width
        histogram.bar(centres, found.photos, width=width * 0.92, color=color)
        histogram.set_xlabel("confidence")
        histogram.xaxis.set_major_formatter(_percent())
        histogram.grid(visible=False, axis="x")
    axes[0, 0].set_ylabel("share that is right")
    axes[1, 0].set_ylabel("photos")
    return figure


def _reliability_diagram(axes: Axes, found: Reliability, color: str) -> None:
    axes.plot([0, 1], [0, 1], color=_GREY, linestyle="--", linewidth=1.2)
    filled = found.photos > 0
    share, count = found.accuracy[filled], found.photos[filled]
    # A bin of three photos says little: its error bar shows it.
    error = np.sqrt(share * (1 - share) / count)
    axes.errorbar(
        found.confidence[filled], share, yerr=error, color=color, ecolor=color, elinewidth=1,
        marker="o", markersize=5, linewidth=1.4,
    )  # fmt: skip
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(_percent())


def draw_worst_classes(evaluation: Evaluation) -> Figure | None:
    """The least accurate classes with their numbers; None if every answer was right."""
    worst = evaluation.worst_classes()[:_WORST]
    if not worst:
        return None
    figure = Figure(figsize=(_WIDTH, 1.2 + 0.29 * len(worst)))
    axes = figure.subplots()
    rows = np.arange(len(worst))[::-1]
    shares = [result.accuracy or 0.0 for result in worst]
    axes.barh(rows, [1.0] * len(worst), color="#eef1f4", height=0.7)
    axes.barh(rows, shares, color=_BLUE, height=0.7)
    for row, result in zip(rows, worst, strict=True):
        axes.text(1.015, row, _counts(result), va="center", fontsize=9.5, color="#56606b")
    axes.set_yticks(rows, [_short(result.label.label, 44) for result in worst])
    axes.tick_params(axis="y", length=0, labelcolor=_INK)
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.6, len(worst) - 0.4)
    axes.xaxis.set_major_formatter(_percent())
    axes.set_xlabel("share named rightly")
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    return figure


def _counts(result: ClassResult) -> str:
    learnt = f", learnt from {result.training_photos}" if result.training_photos else ""
    return f"{result.right} of {result.photos}{learnt}"


def draw_confused_pairs(evaluation: Evaluation) -> Figure | None:
    """Misread photos, each beside a training photo of the class it was taken for.

    Of each of the most frequent pairs of classes the most confident mistake is shown.

    Returns:
        The figure; None if every answer was right.

    Raises:
        DatasetError: a photo cannot be read.
    """
    pairs = evaluation.confusions()[:_PAIRS]
    if not pairs:
        return None
    rows = -(-len(pairs) // 2)
    figure = Figure(figsize=(_WIDTH, 2.75 * rows))
    cells = figure.subfigures(rows, 2, squeeze=False, wspace=0.06)
    for pair, cell in zip(pairs, cells.ravel(), strict=False):
        _draw_pair(cell, pair, evaluation)
    return figure


def _draw_pair(cell: Any, pair: Confusion, evaluation: Evaluation) -> None:
    mistake = pair.photos[0]
    total = int((evaluation.truth == pair.truth).sum())
    left, right = cell.subplots(1, 2, gridspec_kw={"wspace": 0.03})
    _show(left, evaluation.samples[mistake])
    _show(right, _example(evaluation, pair.answer))
    notes = (
        f"{len(pair.photos)} of {total} photos misread as …",
        f"… this (here {100 * evaluation.confidences[mistake]:.0f} % sure)",
    )
    names = [evaluation.labels[class_id].label for class_id in (pair.truth, pair.answer)]
    for axes, name, note, color in zip((left, right), names, notes, (_BLUE, _ORANGE), strict=True):
        axes.set_title(_wrapped(name), fontsize=9.2, fontweight="normal", color=color)
        axes.text(0, -0.03, note, transform=axes.transAxes, va="top", fontsize=9, color="#56606b")


def _example(evaluation: Evaluation, class_id: int) -> Sample | None:
    """A photo of the class: of the training split, else of the one that was scored."""
    photos = (*evaluation.training, *evaluation.samples)
    return next((sample for sample in photos if sample.class_id == class_id), None)


def _show(axes: Axes, sample: Sample | None) -> None:
    axes.set_axis_off()
    axes.set_box_aspect(1)
    if sample is not None:
        # Squashed to a square, as the network sees it: all crops then have one size.
        axes.imshow(np.asarray(load_crop(sample, _TILE).resize((_TILE, _TILE))))


def draw_class_size(evaluation: Evaluation) -> Figure | None:
    """Each class's accuracy against how many photos it was learnt from.

    Returns:
        The figure; None if the data set has no training photos.
    """
    if not evaluation.training:
        return None
    scored = [result for result in evaluation.classes() if result.photos]
    size = np.array([result.training_photos for result in scored])
    share = np.array([result.right / result.photos for result in scored])
    figure = Figure(figsize=(_WIDTH, 4.4))
    axes = figure.subplots()
    # Classes of five photos have six possible accuracies: spread the points, or they hide.
    spread = np.random.default_rng(0).uniform(-1, 1, (2, len(share)))
    axes.scatter(
        size * (1 + 0.008 * spread[0]), share + 0.012 * spread[1],
        s=26, color=_BLUE, alpha=0.4, linewidth=0, label="a class",
    )  # fmt: skip
    groups = [group for group in _quantile_groups(size) if len(group)]
    means = np.array([share[group].mean() for group in groups])
    errors = np.array([share[group].std() / np.sqrt(len(group)) for group in groups])
    axes.errorbar(
        [size[group].mean() for group in groups], means, yerr=errors, color=_ORANGE, marker="o",
        markersize=7, capsize=3, label="mean of classes of about this size, ± standard error",
    )  # fmt: skip
    if size.min() > 0 and size.max() > 8 * size.min():
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(-0.04, 1.04)
    axes.yaxis.set_major_formatter(_percent())
    axes.set_xlabel("training photos of the class")
    axes.set_ylabel("share named rightly")
    figure.legend(loc="outside upper left", ncols=2)
    return figure


def _quantile_groups(size: np.ndarray[Any, np.dtype[np.int64]]) -> list[Any]:
    """Positions of classes in up to six groups of about as many classes, ordered by size.

    Classes of the same size stay together.
    """
    edges = np.unique(np.quantile(size, np.linspace(0, 1, min(6, len(np.unique(size))) + 1)))
    group_of = np.searchsorted(edges[1:-1], size, side="right")
    return [np.flatnonzero(group_of == group) for group in np.unique(group_of)]


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _wrapped(text: str) -> str:
    """A class name in two lines, so that all titles are of one height."""
    first, second = "", ""
    for word in text.split():
        if not second and len(first) + len(word) < _LINE:
            first = f"{first} {word}".strip()
        else:
            second = f"{second} {word}".strip()
    name = f"{_short(first, _LINE)}\n{_short(second, _LINE)}"
    return name if second else f"\n{name.strip()}"


def _percent() -> PercentFormatter:
    return PercentFormatter(1, symbol=" %")


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"
