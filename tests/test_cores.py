"""Counting cores, also on systems that do not say which of them a process may use."""

from __future__ import annotations

import os

import pytest
from factories import TINY_MANIFEST

from bulk.worker import _claim_cores
from handler.cores import usable_cores
from handler.reader import PhotoReader
from lightning_train.data import CarDataModule


def test_cores_that_this_process_may_not_use_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {3, 5, 7}, raising=False)
    assert usable_cores() == 3


@pytest.mark.parametrize(("cores", "expected"), [(12, 12), (None, 1)])
def test_nothing_needs_a_system_that_names_the_cores_of_a_process(
    cores: int | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sched_getaffinity", "sched_setaffinity"):
        monkeypatch.delattr(os, name, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    assert usable_cores() == expected
    assert PhotoReader(TINY_MANIFEST.preprocessing)._pool._max_workers == expected
    assert CarDataModule("nowhere")._workers() == expected
    _claim_cores(1)
