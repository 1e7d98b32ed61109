"""The arithmetic of what photos cost."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks.sizing import MACHINES, Machine, cost_of_a_million

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


def test_a_million_photos_cost_the_hours_they_take() -> None:
    """10 photos a second: 27.8 hours."""
    machine = Machine("a", 2, 8, 0.36)
    assert cost_of_a_million(machine, 5) == pytest.approx(1e6 / 10 / 3600 * 0.36)


def test_twice_the_cores_at_twice_the_price_cost_the_same() -> None:
    small, large = Machine("a", 2, 8, 0.1), Machine("b", 4, 16, 0.2)
    assert cost_of_a_million(small, 30) == pytest.approx(cost_of_a_million(large, 30))


def test_the_page_of_figures_follows_from_the_measurement() -> None:
    """Nobody has changed a cost by hand."""
    measured = json.loads((RESULTS / "sizing.json").read_text())
    page = (RESULTS / "sizing.md").read_text()
    first = measured["measured"][0]
    for machine in MACHINES:
        cost = cost_of_a_million(machine, first["photos_per_second"]["small"] / first["cores"])
        assert re.search(rf"^\| {machine.name} \| .* \| {cost:.2f} \|", page, re.MULTILINE)
