"""Several processes train as one does, only sooner."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toy_cars import write_devkit

ROOT = Path(__file__).resolve().parent.parent


def run(launcher: list[str], root: Path, out: Path) -> dict:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [*launcher, str(ROOT / "tests/ddp_run.py"), str(root), str(out)],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.with_suffix(".json").read_text())


def test_two_processes_end_where_one_does(tmp_path: Path) -> None:
    root = write_devkit(tmp_path / "toy")
    alone, together = tmp_path / "alone.pt", tmp_path / "together.pt"
    one = run([sys.executable], root, alone)
    two = run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"],
        root, together,
    )  # fmt: skip
    assert (one["world"], two["world"]) == (1, 2)
    assert len(one["losses"]) == 3 * (54 // 8)
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-6)
    for figures in (one["figures"], two["figures"]):
        figures.pop("train/loss")  # a process logs its own part's
    assert two["figures"] == pytest.approx(one["figures"], rel=1e-6)
    first, second = torch.load(alone, weights_only=True), torch.load(together, weights_only=True)
    assert first.keys() == second.keys()
    for name, weights in first.items():
        torch.testing.assert_close(second[name], weights, rtol=1e-6, atol=1e-8, msg=name)
