"""EMA: the average is validated and saved; with the live weights training goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from tiny_network import tiny_model
from torch import Tensor
from toy_training import toy_data, toy_model, toy_trainer

from lightning_train.callbacks import EMA, GeometricAugmentation, MixupAugmentation
from lightning_train.classifier import CarClassifier

ROOT = Path(__file__).resolve().parent.parent
State = dict[str, Tensor]


class Live(pl.Callback):
    """Remembers the network after every step, and whenever it is validated."""

    def __init__(self) -> None:
        self.steps: list[State] = []
        self.validated: list[State] = []

    def on_train_start(self, trainer: pl.Trainer, model: CarClassifier) -> None:
        self.steps.append(copied(model))

    def on_train_batch_end(self, trainer: pl.Trainer, model: CarClassifier, *_: object) -> None:
        self.steps.append(copied(model))

    def on_validation_batch_start(
        self, trainer: pl.Trainer, model: CarClassifier, *_: object
    ) -> None:
        if not trainer.sanity_checking:
            self.validated.append(copied(model))


def copied(model: CarClassifier) -> State:
    return {name: tensor.clone() for name, tensor in model.network.state_dict().items()}


def network_of(checkpoint: dict[str, Any], key: str = "state_dict") -> State:
    state = checkpoint[key]
    return {n.removeprefix("network."): t for n, t in state.items() if n.startswith("network.")}


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)  # type: ignore[no-any-return]


def assert_same(first: State, second: State) -> None:
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different


def run(
    root: Path, folder: Path, epochs: int, *callbacks: pl.Callback, ckpt_path: Path | None = None
) -> CarClassifier:
    """A run with all that draws random numbers: shuffling, augmentation, dropout."""
    pl.seed_everything(0, verbose=False)
    model = tiny_model()
    draws = (GeometricAugmentation(), MixupAugmentation())
    trainer = toy_trainer(folder, epochs, *draws, *callbacks)
    trainer.fit(model, toy_data(root), ckpt_path=ckpt_path)
    trainer.save_checkpoint(folder / "end.ckpt")
    return model


def test_the_average_of_the_weights_keeps_up_with_a_short_run(
    toy_root: Path, tmp_path: Path
) -> None:
    pl.seed_everything(0, verbose=False)
    trainer = toy_trainer(tmp_path, 10, EMA(decay=0.998))
    trainer.fit(toy_model(), toy_data(toy_root))
    # Validated on the average: 60 steps are nothing to a memory of 500 without a warm-up.
    assert trainer.callback_metrics["val/top1"] == 1.0


def test_the_average_is_the_formulas_and_takes_no_part_in_training(
    toy_root: Path, tmp_path: Path
) -> None:
    (tmp_path / "plain").mkdir()
    plain = run(toy_root, tmp_path / "plain", 2)
    live = Live()
    averaged = run(toy_root, tmp_path, 2, EMA(decay=0.6), live)

    expected = {name: tensor.double() for name, tensor in live.steps[0].items()}
    at_validation = []
    for step, state in enumerate(live.steps[1:], 1):
        decay = min(0.6, (1 + step) / (10 + step))
        for name, tensor in state.items():
            if tensor.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * tensor
            else:
                expected[name] = tensor.double()  # batches that BatchNorm has seen
        if step % 6 == 0:
            at_validation.append(dict(expected))
    end = load(tmp_path / "end.ckpt")
    for name, tensor in network_of(end).items():
        torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-4, atol=1e-6)
    # The average is what was validated, and what `fit` leaves behind ...
    assert len(live.validated) == 2
    for seen, right in zip(live.validated, at_validation, strict=True):
        for name, tensor in seen.items():
            torch.testing.assert_close(tensor.double(), right[name], rtol=1e-4, atol=1e-6)
    assert_same(copied(averaged), network_of(end))
    # ... and training went on as if there were none.
    assert_same(network_of(end, "current_model_state"), copied(plain))


def test_gradients_of_several_batches_are_one_step_of_the_average(
    toy_root: Path, tmp_path: Path
) -> None:
    live = Live()
    trainer = toy_trainer(tmp_path, 1, EMA(decay=0.5), live)
    trainer.accumulate_grad_batches = 3
    trainer.fit(model := tiny_model(), toy_data(toy_root))
    assert trainer.global_step == 2
    start, first, second = (live.steps[i]["head.weight"] for i in (0, 3, 6))
    average = start + (1 - 2 / 11) * (first - start)
    average = average + (1 - 3 / 12) * (second - average)
    torch.testing.assert_close(model.network.head.weight, average, rtol=0, atol=1e-7)


class StopInValidation(pl.Callback):
    """Fails in the middle of a validation, as a full disk would, and saves what there is."""

    def on_validation_batch_start(self, trainer: pl.Trainer, *_: object) -> None:
        if trainer.current_epoch == 1 and not trainer.sanity_checking:
            raise RuntimeError("stop")

    def on_exception(self, trainer: pl.Trainer, *_: object) -> None:
        trainer.save_checkpoint(Path(trainer.default_root_dir) / "exception.ckpt")


class SaveFirst(pl.Callback):
    """Saves after a step before callbacks that come later in the list have seen the step."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        if trainer.global_step == 9:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "first.ckpt")


@pytest.fixture(scope="module")
def uninterrupted(toy_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    run(toy_root, folder, 3, EMA())
    return load(folder / "end.ckpt")


@pytest.mark.parametrize(
    "where", ["after an epoch", "within an epoch", "before the average moves", "in a validation"]
)
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(
    where: str, toy_root: Path, tmp_path: Path, uninterrupted: dict[str, Any]
) -> None:
    if where == "in a validation":
        with pytest.raises(RuntimeError, match="stop"):
            run(toy_root, tmp_path, 3, EMA(), StopInValidation())
        cut = tmp_path / "exception.ckpt"
    elif where == "before the average moves":
        run(toy_root, tmp_path, 3, SaveFirst(), EMA())
        cut = tmp_path / "first.ckpt"
    else:
        every = {"every_n_train_steps": 9} if where == "within an epoch" else {"every_n_epochs": 1}
        saver = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, **every)  # type: ignore[arg-type]
        run(toy_root, tmp_path, 3, EMA(), saver)
        cut = tmp_path / f"step={9 if where == 'within an epoch' else 12}.ckpt"
    average, live = network_of(load(cut)), network_of(load(cut), "current_model_state")
    assert not torch.equal(average["head.weight"], live["head.weight"])

    run(toy_root, tmp_path, 3, EMA(), ckpt_path=cut)
    resumed = load(tmp_path / "end.ckpt")
    assert_same(network_of(resumed), network_of(uninterrupted))
    assert_same(
        network_of(resumed, "current_model_state"),
        network_of(uninterrupted, "current_model_state"),
    )


def test_a_checkpoint_that_is_resumed_and_saved_again_stays_what_it_is(
    toy_root: Path, tmp_path: Path
) -> None:
    run(toy_root, tmp_path, 1, EMA())
    first = load(tmp_path / "end.ckpt")
    run(toy_root, tmp_path, 1, EMA(), ckpt_path=tmp_path / "end.ckpt")  # no epoch is left
    again = load(tmp_path / "end.ckpt")
    for key in ("state_dict", "current_model_state"):
        assert_same(network_of(again, key), network_of(first, key))


def test_a_run_that_had_no_average_can_be_resumed_with_one(toy_root: Path, tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=6, save_top_k=-1)
    run(toy_root, tmp_path, 2, saver)
    live = Live()
    run(toy_root, tmp_path, 2, EMA(decay=0.5), live, ckpt_path=tmp_path / "step=6.ckpt")
    assert_same(live.steps[0], network_of(load(tmp_path / "step=6.ckpt")))
    assert not torch.equal(live.validated[-1]["head.weight"], live.steps[-1]["head.weight"])


def test_a_saved_checkpoint_is_validated_as_it_is(toy_root: Path, tmp_path: Path) -> None:
    model = run(toy_root, tmp_path, 1, EMA())
    average, live = copied(model), Live()
    trainer = toy_trainer(tmp_path, 1, EMA(), live)
    trainer.validate(tiny_model(), toy_data(toy_root), tmp_path / "end.ckpt", verbose=False)
    assert_same(live.validated[0], average)


def test_validating_after_training_leaves_the_average_in_the_network(
    toy_root: Path, tmp_path: Path
) -> None:
    pl.seed_everything(0, verbose=False)
    trainer, model = toy_trainer(tmp_path, 1, EMA()), tiny_model()
    data = toy_data(toy_root)
    trainer.fit(model, data)
    average = copied(model)
    trainer.validate(model, data, verbose=False)
    assert_same(copied(model), average)


def test_a_compiled_network_is_averaged_too(toy_root: Path, tmp_path: Path) -> None:
    model = tiny_model()
    model.network.compile(backend="eager")
    live = Live()
    toy_trainer(tmp_path, 1, EMA(decay=0.5), live).fit(model, toy_data(toy_root))
    assert live.validated[0].keys() == tiny_model().network.state_dict().keys()
    assert not torch.equal(live.validated[0]["head.weight"], live.steps[-1]["head.weight"])


def test_saving_weights_only_would_lose_the_average_and_is_refused(
    toy_root: Path, tmp_path: Path
) -> None:
    saver = ModelCheckpoint(tmp_path, save_weights_only=True)
    with pytest.raises(ValueError, match="take save_weights_only out"):
        toy_trainer(tmp_path, 1, EMA(), saver).fit(tiny_model(), toy_data(toy_root))


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_that_makes_no_sense_is_named(decay: float) -> None:
    with pytest.raises(ValueError, match="below 1"):
        EMA(decay)


def test_two_processes_thaw_and_average_alike(toy_root: Path, tmp_path: Path) -> None:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "OMP_NUM_THREADS": "1",
    }
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [
            *launcher, str(ROOT / "tests/ddp_callbacks_run.py"),
            str(toy_root), str(tmp_path), "ddp_find_unused_parameters_true", "[4, 0]",
        ],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"process{i}.pt", weights_only=True) for i in (0, 1))
    assert_same(first["average"], second["average"])
    end = load(tmp_path / "end.ckpt")
    average, live = network_of(end), network_of(end, "current_model_state")
    assert_same({name: average[name] for name in first["average"]}, first["average"])
    assert not torch.equal(average["head.weight"], live["head.weight"])
    # Thawed after DDP had wrapped the network, the stages learn, the same in both processes.
    assert not torch.equal(first["start"], live["stages.0.0.weight"])
