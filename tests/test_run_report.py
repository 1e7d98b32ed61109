"""The report that a run leaves behind, from real toy runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy_cars import TOY_CLASSES, write_devkit
from toy_training import toy_data, toy_model, toy_trainer

from lightning_train.callbacks import EMA
from lightning_train.callbacks.run_report import RunReport
from lightning_train.classifier import CarClassifier
from lightning_train.data import Split, read_dataset
from lightning_train.evaluation import metrics
from lightning_train.evaluation.photo_sets import PhotoSets

ROOT = Path(__file__).resolve().parent.parent
PICTURES = {"reliability", "worst_classes", "confused_pairs", "class_size"}


@pytest.fixture(scope="module")
def toy_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Toy cars of which two are mislabelled in each split: no network can name them all rightly."""
    root = write_devkit(tmp_path_factory.mktemp("toy"))
    write_devkit(root, per_class=4, split="test")
    splits: tuple[Split, ...] = ("val", "test")
    for split in splits:
        samples = read_dataset(root, split).samples
        first, other = (next(s for s in samples if s.class_id == i) for i in (0, 1))
        content = first.path.read_bytes()
        first.path.write_bytes(other.path.read_bytes())
        other.path.write_bytes(content)
    for name, photos_of_it in (("not_cars", 12), ("unseen_cars", 3)):
        (root / name).mkdir()
        for number in range(photos_of_it):
            noise = np.random.default_rng(number).integers(0, 255, (40, 60, 3), dtype=np.uint8)
            Image.fromarray(noise).save(root / name / f"{number}.png")
    return root


def loggers(folder: Path) -> list[pl.loggers.Logger]:
    return [TensorBoardLogger(folder, "board", version=""), CSVLogger(folder, "csv", version="")]


def fit(
    folder: Path, root: Path, epochs: int, *callbacks: pl.Callback, ckpt_path: Path | None = None
) -> tuple[pl.Trainer, CarClassifier]:
    pl.seed_everything(0, verbose=False)
    trainer = toy_trainer(folder, epochs, *callbacks)
    model = toy_model()
    trainer.fit(model, toy_data(root), ckpt_path=ckpt_path)
    return trainer, model


def report(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def pictures(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.png")}


def logits_of(model: CarClassifier, root: Path, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """What Lightning's own loop over a loader of the split would see."""
    data = toy_data(root)
    data.setup("test" if split == "test" else "fit")
    loader = data.test_dataloader() if split == "test" else data.val_dataloader()
    with torch.inference_mode():
        parts = [(model(batch["image"]), batch["label"]) for batch in loader]
    logits, labels = zip(*parts, strict=True)
    return torch.cat(logits).numpy(), torch.cat(labels).numpy()


class FittedRun:
    """A fit with all that the shipped configurations have."""

    def __init__(self, folder: Path, root: Path) -> None:
        pl.seed_everything(0, verbose=False)
        self.checkpoint = ModelCheckpoint(
            folder, filename="best", monitor="val/top1", mode="max", save_last=True
        )
        callbacks = [LearningRateMonitor("step"), EMA(), RunReport(), self.checkpoint]
        self.trainer = pl.Trainer(
            max_epochs=3,
            accelerator="cpu",
            callbacks=callbacks,
            logger=loggers(folder),
            log_every_n_steps=2,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        (folder / "csv").mkdir()
        (folder / "csv/config.yaml").write_text("seed_everything: 0\n")
        self.trainer.fit(toy_model(), toy_data(root))
        self.folder = folder / "board/report"  # the first logger's
        self.best = folder / "best.ckpt"

    def best_model(self) -> CarClassifier:
        return CarClassifier.load_from_checkpoint(self.best, weights=None).eval()


@pytest.fixture(scope="module")
def run(toy_root: Path, tmp_path_factory: pytest.TempPathFactory) -> FittedRun:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*(no report|could not be drawn)")
        return FittedRun(tmp_path_factory.mktemp("run"), toy_root)


def test_a_fit_ends_with_figures_curves_and_a_page(run: FittedRun) -> None:
    assert pictures(run.folder) == PICTURES | {"curves"}
    for path in run.folder.glob("*.png"):
        with Image.open(path) as image:
            assert len(image.convert("RGB").getcolors(1 << 24) or []) > 50, path
    page = (run.folder / "index.html").read_text()
    for said in ("resnet18", "best.ckpt", "seed_everything: 0", "validation photos", "not_cars"):
        assert said in page


def test_the_reported_epoch_is_the_best_and_its_figures_are_those_that_lightning_logged(
    run: FittedRun,
) -> None:
    content = report(run.folder)
    assert content["checkpoint"].endswith("best.ckpt")
    assert content["figures"]["top1"] == pytest.approx(float(run.checkpoint.best_model_score))
    saved = torch.load(run.best, weights_only=True)
    assert content["epoch"].startswith(f"{saved['epoch'] + 1}, the best of 3")


def test_the_figures_are_those_of_the_best_checkpoint(run: FittedRun, toy_root: Path) -> None:
    logits, truth = logits_of(run.best_model(), toy_root, "val")
    content = report(run.folder)
    figures = content["figures"]
    assert (figures["photos"], len(truth)) == (6, 6)  # no photo of the sanity check
    assert figures["top1"] == pytest.approx((logits.argmax(axis=1) == truth).mean())
    before = metrics.expected_calibration_error(logits, truth)
    assert figures["calibration_error_before"] == pytest.approx(before, abs=1e-4)
    temperature = metrics.fit_temperature(logits, truth)
    assert content["temperature"]["value"] == pytest.approx(temperature, rel=1e-2)
    assert "these very photos" in content["temperature"]["fitted_on"]
    assert [row["training_photos"] for row in content["classes"]] == [18, 18, 18]


def test_photos_of_other_things_are_scored_with_the_best_weights(
    run: FittedRun, toy_root: Path, tmp_path: Path
) -> None:
    outside = report(run.folder)["outside"]
    # Those that detectors are not fitted on.
    assert outside["not_cars"]["photos"] == len(
        PhotoSets(toy_root, 32).others("not_cars", "measure")
    )
    assert outside["unseen_cars"]["photos"] == 3
    trainer = toy_trainer(tmp_path, 1, RunReport())
    trainer.validate(toy_model(), toy_data(toy_root), ckpt_path=run.best, verbose=False)
    again = report(tmp_path / "report")
    assert again["checkpoint"] == str(run.best)
    for name, figures in again["outside"].items():
        assert outside[name] == pytest.approx(figures)
    assert again["figures"] == pytest.approx(report(run.folder)["figures"], abs=1e-4)
    assert pictures(tmp_path / "report") == PICTURES  # there was no training to draw curves of


def test_the_temperature_for_the_test_split_is_fitted_on_the_validation_photos(
    run: FittedRun, toy_root: Path, tmp_path: Path
) -> None:
    trainer = toy_trainer(tmp_path, 1, RunReport())
    trainer.test(toy_model(), toy_data(toy_root), ckpt_path=run.best, verbose=False)
    content = report(tmp_path / "report-test")
    assert content["figures"]["photos"] == 12
    assert content["figures"]["top1"] == pytest.approx(float(trainer.callback_metrics["test/top1"]))
    assert content["temperature"]["fitted_on"] == "the validation photos"
    fitted = metrics.fit_temperature(*logits_of(run.best_model(), toy_root, "val"))
    assert content["temperature"]["value"] == pytest.approx(fitted, rel=1e-2)
    logits, truth = logits_of(run.best_model(), toy_root, "test")
    after = metrics.expected_calibration_error(logits, truth, fitted)
    assert content["figures"]["calibration_error"] == pytest.approx(after, abs=1e-3)


def test_a_data_set_of_test_photos_alone_is_reported(
    run: FittedRun, toy_root: Path, tmp_path: Path
) -> None:
    shutil.copytree(toy_root / "stanford_cars", tmp_path / "stanford_cars")
    shutil.rmtree(tmp_path / "stanford_cars/cars_train")
    (tmp_path / "stanford_cars/devkit/cars_train_annos.mat").unlink()
    trainer = toy_trainer(tmp_path, 1, RunReport())
    trainer.test(toy_model(), toy_data(tmp_path), ckpt_path=run.best, verbose=False)
    content = report(tmp_path / "report-test")
    assert "these very photos" in content["temperature"]["fitted_on"]
    assert "class_size" not in pictures(tmp_path / "report-test")


def test_tensorboard_shows_the_pictures(run: FittedRun) -> None:
    events = EventAccumulator(str(run.folder.parent)).Reload()
    assert {f"report/{name}" for name in PICTURES | {"curves"}} <= set(events.Tags()["images"])


class Countdown(pl.Callback):
    """Logs a value that is best in the first epoch; remembers the weights as training ends."""

    def on_validation_epoch_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        model.log("countdown", -float(trainer.current_epoch))


class Weights(pl.Callback):
    """Remembers the network and its mode when training ends, before or after the report."""

    def __init__(self) -> None:
        self.state: dict[str, torch.Tensor] = {}
        self.training: list[bool] = []

    def on_train_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        self.state = {name: value.clone() for name, value in model.state_dict().items()}
        self.training = [module.training for module in model.modules()]


def test_the_network_ends_training_as_if_nothing_had_been_reported(
    toy_root: Path, tmp_path: Path
) -> None:
    before, after = Weights(), Weights()
    checkpoint = ModelCheckpoint(tmp_path, filename="best", monitor="countdown", mode="max")
    watched = RunReport(monitor="countdown")
    fit(tmp_path, toy_root, 2, Countdown(), before, watched, after, checkpoint)
    assert report(tmp_path / "report")["epoch"].startswith("1, the best of 2")
    assert report(tmp_path / "report")["outside"]  # scored with the first epoch's weights
    assert before.training == after.training
    assert any(before.training)
    for name, value in before.state.items():
        assert torch.equal(after.state[name], value), name


def test_a_resumed_run_reports_a_best_epoch_from_before_the_interruption(
    toy_root: Path, tmp_path: Path
) -> None:
    checkpoint = ModelCheckpoint(tmp_path / "checkpoints", save_last=True)
    watched = RunReport(monitor="countdown")
    fit(tmp_path / "first", toy_root, 2, Countdown(), watched, checkpoint)
    last = tmp_path / "checkpoints/last.ckpt"
    again = RunReport(monitor="countdown")
    fit(tmp_path / "second", toy_root, 3, Countdown(), again, ckpt_path=last)
    first, second = (report(tmp_path / name / "report") for name in ("first", "second"))
    assert second["epoch"] == "1, the best of 3 by countdown"
    assert second["figures"] == first["figures"]


def test_without_loggers_and_checkpoints_there_is_a_report_all_the_same(
    toy_root: Path, tmp_path: Path
) -> None:
    fit(tmp_path, toy_root, 1, RunReport())
    content = report(tmp_path / "report")
    assert content["checkpoint"] == "none was kept of this epoch"
    assert content["outside"] == {}  # there are no weights to score them with
    assert "curves" not in pictures(tmp_path / "report")


def test_a_dry_run_writes_nothing(toy_root: Path, tmp_path: Path) -> None:
    trainer = pl.Trainer(
        fast_dev_run=True, accelerator="cpu", callbacks=[RunReport()], default_root_dir=tmp_path,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    model, data = toy_model(), toy_data(toy_root)
    trainer.fit(model, data)
    trainer.validate(model, data, verbose=False)
    trainer.test(model, data, verbose=False)
    assert list(tmp_path.rglob("*")) == []


def test_some_of_the_validation_batches_are_reported_as_they_are(
    toy_root: Path, tmp_path: Path
) -> None:
    trainer = pl.Trainer(
        accelerator="cpu", callbacks=[RunReport()], logger=False, default_root_dir=tmp_path,
        enable_progress_bar=False, limit_test_batches=1,
    )  # fmt: skip
    trainer.test(toy_model(), toy_data(toy_root), verbose=False)
    assert report(tmp_path / "report-test")["figures"]["photos"] == 9


class Vandal(pl.Callback):
    """Deletes all photos when they have been read."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def on_train_start(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        for photo in self.root.rglob("*.[jp][pn]g"):
            photo.unlink()


def test_photos_that_vanish_cost_pictures_and_not_the_run(toy_root: Path, tmp_path: Path) -> None:
    root = shutil.copytree(toy_root, tmp_path / "data")
    checkpoint = ModelCheckpoint(tmp_path, filename="best", monitor="val/top1", mode="max")
    with pytest.warns(UserWarning, match=r"confused_pairs\.png could not be drawn"):
        trainer, _ = fit(tmp_path, root, 1, Vandal(root), RunReport(), checkpoint)
    assert trainer.state.finished
    assert report(tmp_path / "report")["figures"]["photos"] == 6
    assert pictures(tmp_path / "report") == PICTURES - {"confused_pairs"}


def test_a_folder_that_cannot_be_written_does_not_stop_the_run(
    toy_root: Path, tmp_path: Path
) -> None:
    (tmp_path / "report").write_text("in the way")
    with pytest.warns(UserWarning, match=r"no report in .*report: .*is a file"):
        trainer, _ = fit(tmp_path, toy_root, 1, RunReport())
    assert trainer.state.finished


def test_a_broken_photo_of_something_else_is_left_out_and_named(
    run: FittedRun, toy_root: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(toy_root, tmp_path / "data")
    (root / "unseen_cars/1.png").write_text("no photo")
    trainer = toy_trainer(tmp_path, 1, RunReport())
    with pytest.warns(UserWarning, match=r"1 photos left out of the report.*1\.png"):
        trainer.validate(toy_model(), toy_data(root), ckpt_path=run.best, verbose=False)
    assert report(tmp_path / "report")["outside"]["unseen_cars"]["photos"] == 2


def test_two_processes_report_every_photo_once(toy_root: Path, tmp_path: Path) -> None:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"),
            *(str(ROOT / "tests/ddp_report.py"), str(toy_root), str(tmp_path)),
        ],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "no report" not in done.stderr
    lightning = json.loads((tmp_path / "lightning.json").read_text())
    validation, test = report(tmp_path / "report"), report(tmp_path / "report-test")
    assert validation["figures"]["photos"] == 6
    assert test["figures"]["photos"] == 12
    assert test["figures"]["top1"] == pytest.approx(lightning["test/top1"])
    assert [row["photos"] for row in test["classes"]] == [4] * len(TOY_CLASSES)
    assert pictures(tmp_path / "report") >= {"reliability", "class_size"}
