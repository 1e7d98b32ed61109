"""The soak of a container: what it may not pass over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.containers import Memory
from benchmarks.soak.clients import Tally
from benchmarks.soak.container import ContainerReport


def report(
    growth_mb: float = 0.0, pids: tuple[int, int] = (7, 43), **changed: object
) -> ContainerReport:
    """Of a run of an hour whose memory grows by so much."""
    samples = [
        (number * 10, Memory(900.0, 500 + growth_mb * number / 1000)) for number in range(1000)
    ]
    given = {"killed": 0, "tally": Tally(sent=10_000, photos={"200": 10_000}), **changed}
    return ContainerReport(
        clients=16,
        distinct_files=100,
        limit=3 * 2**30,
        seconds=3600.0,
        samples=samples,
        pids=([7, 43], list(pids)),
        **given,  # type: ignore[arg-type]
    )


def test_a_run_in_which_nothing_happened_passes() -> None:
    assert report(growth_mb=10).is_passed


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(report(growth_mb=100), id="memory grows"),
        pytest.param(report(pids=(7, 44)), id="another worker"),
        pytest.param(report(pids=(8, 43)), id="another container"),
        pytest.param(report(killed=1), id="the kernel ended a process"),
        pytest.param(
            report(tally=Tally(sent=1, wrong=["500 instead of 200"])), id="a wrong answer"
        ),
    ],
)
def test_a_run_in_which_something_happened_does_not(bad: ContainerReport) -> None:
    assert not bad.is_passed


def test_the_report_says_how_much_and_how_long(tmp_path: Path) -> None:
    report(growth_mb=12).write(tmp_path)
    text = (tmp_path / "soak-container.md").read_text()
    assert "in 60.0 minutes" in text
    assert "limit: 3,072 MB" in text
    assert json.loads((tmp_path / "soak-container.json").read_text())["passed"] is True
    assert (tmp_path / "soak-container.svg").exists()
