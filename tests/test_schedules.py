"""The schedules against the formulas of the papers, and what a run does with them."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from toy_training import toy_data, toy_model, toy_trainer

from lightning_train.schedules import (
    CosineSchedule,
    CyclicSchedule,
    OneCycleSchedule,
    Schedule,
)

STEPS = 10  # per epoch


def rates(schedule: Schedule, epochs: int, lr: float = 1.0, **sgd: float) -> list[float]:
    """The rate of every step of a run, and the one after the last."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, **sgd)
    scheduler = schedule.build(optimizer, STEPS, epochs)
    values = []
    for _ in range(epochs * STEPS + 1):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return values


def triangle(step: int, half_cycle: int) -> tuple[int, float]:
    """Smith 2015, section 3: the cycle (from 1) and the height in it, 0…1."""
    cycle = math.floor(1 + step / (2 * half_cycle))
    return cycle, max(0.0, 1 - abs(step / half_cycle - 2 * cycle + 1))


@pytest.mark.parametrize("mode", ["triangular", "triangular2", "exp_range"])
def test_every_policy_follows_the_papers_formula(mode: str) -> None:
    schedule = CyclicSchedule(2, mode=mode, gamma=0.8, base_lr_fraction=0.1)  # type: ignore[arg-type]
    for step, rate in enumerate(rates(schedule, epochs=12, lr=0.5)):
        cycle, height = triangle(step, half_cycle=2 * STEPS)
        scale = {
            "triangular": 1.0,
            "triangular2": 1 / 2 ** (cycle - 1),
            "exp_range": 0.8 ** (step / STEPS),  # gamma is given per epoch
        }[mode]
        assert rate == pytest.approx(0.05 + (0.5 - 0.05) * height * scale)


def test_a_run_of_whole_cycles_ends_at_a_minimum() -> None:
    values = rates(CyclicSchedule(1, 3, mode="triangular", base_lr_fraction=0.1), epochs=8)
    assert values[0] == values[-1] == pytest.approx(0.1)
    assert values[STEPS] == values[5 * STEPS] == pytest.approx(1.0)


@pytest.mark.parametrize(("cycles", "epochs"), [(1, 7), (2, 6), (3, 40)])
def test_so_many_cycles_end_at_a_minimum_however_long_the_run_is(
    cycles: int, epochs: int, recwarn: pytest.WarningsRecorder
) -> None:
    schedule = CyclicSchedule(
        mode="triangular", base_lr_fraction=0.1, cycles=cycles, up_fraction=0.25
    )
    values = rates(schedule, epochs)
    cycle = epochs * STEPS // cycles
    tops = [number * cycle + round(cycle / 4) for number in range(cycles)]
    assert [values[top] for top in tops] == pytest.approx([1.0] * cycles)
    assert [values[number * cycle] for number in range(cycles)] == pytest.approx([0.1] * cycles)
    # A rounded cycle may be over a step or two before the run.
    assert values[cycles * cycle - 1] == pytest.approx(0.1, abs=2 / cycle)
    assert not recwarn


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step_size_up": 0}, "more than 0"),
        ({"step_size_up": 2, "cycles": 1}, "not both"),
        ({"step_size_down": 2, "cycles": 1}, "not both"),
        ({"cycles": 0}, "1 or more"),
        ({"cycles": 1, "up_fraction": 1.0}, "part of one"),
    ],
)
def test_lengths_that_make_no_cycle_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CyclicSchedule(**arguments)


def test_cycles_of_a_run_without_an_end_are_refused() -> None:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])
    with pytest.raises(ValueError, match="max_epochs"):
        CyclicSchedule(cycles=1).build(optimizer, STEPS, math.inf)


@pytest.mark.parametrize(
    ("epochs", "advice"), [(10, "8 or 16"), (3, "max_epochs 8 "), (8, None), (16, None)]
)
def test_a_run_that_stops_within_a_cycle_is_told_which_lengths_do_not(
    epochs: int, advice: str | None, recwarn: pytest.WarningsRecorder
) -> None:
    rates(CyclicSchedule(4), epochs)
    said = [str(w.message) for w in recwarn if "cycles of" in str(w.message)]
    assert bool(said) == (advice is not None)
    assert advice is None or advice in said[0]


def test_one_cycle_rises_to_the_maximum_and_ends_far_below_its_start() -> None:
    values = rates(OneCycleSchedule(warmup_fraction=0.25), epochs=8)
    assert values[0] == pytest.approx(0.04)
    assert max(values) == pytest.approx(1.0, abs=1e-3)
    assert values.index(max(values)) == pytest.approx(2 * STEPS, abs=1)
    assert values[-1] == pytest.approx(0.0001)


def test_cosine_warms_up_and_falls_to_zero() -> None:
    values = rates(CosineSchedule(warmup_epochs=1), epochs=5)
    assert values[:STEPS] == sorted(values[:STEPS])
    assert values[STEPS] == 1.0
    assert values[3 * STEPS] == pytest.approx(0.5)
    assert values[-1] == pytest.approx(0.0)


@pytest.mark.parametrize("schedule", [CyclicSchedule(2), OneCycleSchedule(), CosineSchedule()])
def test_every_parameter_group_keeps_its_ratio(schedule: Schedule) -> None:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1.0, 0.1)]
    optimizer = torch.optim.AdamW(groups)
    scheduler = schedule.build(optimizer, STEPS, 4)
    for _ in range(4 * STEPS - 1):
        optimizer.step()
        scheduler.step()
        head, trunk = (group["lr"] for group in optimizer.param_groups)
        assert trunk == pytest.approx(head / 10)


@pytest.mark.parametrize(
    "schedule", [CyclicSchedule(1, base_momentum=0.8), OneCycleSchedule(0.5, base_momentum=0.8)]
)
@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_momentum_cycles_against_the_rate_where_there_is_one(
    schedule: Schedule, momentum: float
) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=momentum)
    scheduler = schedule.build(optimizer, STEPS, 2)
    seen = []
    for _ in range(2 * STEPS):
        group = optimizer.param_groups[0]
        seen.append((group["lr"], group["momentum"]))
        optimizer.step()
        scheduler.step()
    assert max(seen)[1] == pytest.approx(0.8 if momentum else 0.0, abs=2e-3)
    assert min(seen)[1] == pytest.approx(momentum, abs=3e-3)


def test_adamw_keeps_its_betas() -> None:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    for schedule in (CyclicSchedule(1), OneCycleSchedule()):
        scheduler = schedule.build(optimizer, STEPS, 2)
        for _ in range(STEPS):
            optimizer.step()
            scheduler.step()
            assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)


class Rates(pl.Callback):
    """Remembers the rate of every step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_start(self, trainer: pl.Trainer, *_: object) -> None:
        self.values.append(trainer.optimizers[0].param_groups[0]["lr"])


def test_the_rate_moves_within_an_epoch(toy_root: Path, tmp_path: Path) -> None:
    seen = Rates()
    trainer = toy_trainer(tmp_path, 2, seen)
    trainer.fit(toy_model(), toy_data(toy_root))
    assert seen.values[:6] == sorted(set(seen.values[:6]))  # 54 photos, batches of 9
    assert seen.values[6] == pytest.approx(2e-3)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(2e-4)


@pytest.mark.parametrize(
    "schedule",
    [
        CyclicSchedule(1.5, mode="triangular2"),
        CyclicSchedule(2, mode="exp_range", gamma=0.5),
        OneCycleSchedule(),
        CosineSchedule(),
    ],
    ids=["triangular2", "exp_range", "one cycle", "cosine"],
)
def test_a_resumed_run_continues_its_schedule_to_the_step(
    schedule: Schedule, toy_root: Path, tmp_path: Path
) -> None:
    whole, first, second = Rates(), Rates(), Rates()
    toy_trainer(tmp_path, 4, whole).fit(toy_model(schedule=schedule), toy_data(toy_root))
    # The checkpoint of the second epoch lies in the middle of the way down.
    checkpoint = pl.callbacks.ModelCheckpoint(
        tmp_path, filename="{epoch}", save_top_k=-1, auto_insert_metric_name=False
    )
    cut = toy_trainer(tmp_path, 4, first, checkpoint)
    cut.fit(toy_model(schedule=schedule), toy_data(toy_root))
    toy_trainer(tmp_path, 4, second).fit(
        toy_model(schedule=schedule), toy_data(toy_root), ckpt_path=tmp_path / "1.ckpt"
    )
    assert second.values == pytest.approx(whole.values[12:])
    assert len(set(second.values)) > 6
    assert all(a != b for a, b in itertools.pairwise(second.values))


@pytest.mark.parametrize(
    ("length", "accumulate"),
    [({"max_epochs": 4}, 1), ({"max_steps": 9}, 1), ({"max_epochs": 4}, 2)],
)
def test_an_epoch_of_the_schedule_is_an_epoch_whatever_ends_the_run(
    length: dict[str, int], accumulate: int, toy_root: Path, tmp_path: Path
) -> None:
    seen = Rates()
    trainer = pl.Trainer(
        accelerator="cpu", callbacks=[seen], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        accumulate_grad_batches=accumulate, **length,
    )  # fmt: skip
    trainer.fit(toy_model(), toy_data(toy_root))
    assert seen.values.index(max(seen.values)) == 6  # batches up: one epoch


@pytest.mark.parametrize("schedule", [OneCycleSchedule(), CosineSchedule()])
def test_a_schedule_over_the_whole_run_needs_its_end(schedule: Schedule) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(ValueError, match=r"set trainer\.max_epochs"):
        schedule.build(optimizer, STEPS, math.inf)
