"""Figures for people: their names, their format, one table in the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

__all__ = ["figure_name", "format_figure", "print_figures"]

_NAMES = {
    "top1": "top-1",
    "top1_standard_error": "top-1, standard error",
    "top5": "top-5",
    "make_model": "make + model",
    "per_class": "mean of classes",
    "calibration_error_before": "calibration error, no temperature",
    "calibration_error": "calibration error",
    "identified": "answered identified",
    "uncertain": "answered uncertain",
    "not_a_car": "answered not_a_car",
    "identified_right": "of identified, right",
    "auroc_car_score": "AUROC, car score",
    "auroc_known_score": "AUROC, known score",
    "auroc_wrong": "AUROC, right against wrong answers",
    "auroc_unseen": "AUROC, right answers against unseen cars",
    "unseen_identified": "of unseen cars, answered identified",
    "whole_top1": "top-1, whole photo only",
    "looks": "looks at a photo",
    "pointing": "heatmap's peak on the car",
    "auroc_confidence": "AUROC, confidence",
    "auroc_energy": "AUROC, energy",
}


def figure_name(figure: str) -> str:
    """What a table calls a figure."""
    return _NAMES.get(figure, figure)


def format_figure(figure: str, value: float) -> str:
    """A count as it is, a fraction as a percentage."""
    if figure == "looks":
        return f"{value:.2f}"
    return f"{value:,.0f}" if figure == "photos" else f"{100 * value:.2f} %"


def print_figures(title: str, columns: Mapping[str, Mapping[str, float]]) -> None:
    """Print named figures, one column per system.

    Args:
        title: what was measured on what.
        columns: column heading → figure → value; every column holds the same figures.
    """
    table = Table("")
    for heading in columns:
        table.add_column(heading, justify="right")
    for figure in next(iter(columns.values())):
        cells = [format_figure(figure, column[figure]) for column in columns.values()]
        table.add_row(figure_name(figure), *cells)
    console = Console()
    console.print(title, table, sep="\n")
