"""One report folder at the end of `fit`, and for every `validate` and `test`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, distributed

from lightning_train.data import Batch, CarDataModule, Split
from lightning_train.evaluation.curves import TrainingCurves, read_curves
from lightning_train.evaluation.folder import Subject, write_report
from lightning_train.evaluation.network import evaluate_network, weights_of

__all__ = ["RunReport"]


@dataclass(frozen=True, slots=True)
class _Pass:
    """One pass over a split: logits [N, C] and class ids [N] in the photos' order, on the CPU."""

    logits: Tensor
    truth: Tensor


@dataclass(frozen=True, slots=True)
class _Best:
    """The best validation of a fit, the monitored value it had, and the epochs done by then."""

    found: _Pass
    value: float
    epoch: int


class RunReport(pl.Callback):
    """Writes metrics.json, pictures and index.html: see `lightning_train.evaluation.folder`.

    `fit` ends with a report on its best epoch, with the run's curves if a CSVLogger kept them;
    `validate` and `test` report the checkpoint they were given. The temperature is fitted on the
    validation photos: in `validate` and `fit` the very photos that are scored (the report says
    so), while `test` scores them beside its own. Photos in the data set's folders `not_cars` and
    `unseen_cars`, if it has them, are scored with the reported weights.

    The folder is `report`, for the test split `report-test`, in the first logger's `log_dir`, else
    in `default_root_dir`. What fails in here is a warning, and the run goes on. `fast_dev_run` and
    the sanity check before a run write nothing.

    Args:
        monitor: the logged value that says which epoch is the best.
        mode: whether the best is the highest or the lowest.
    """

    def __init__(self, monitor: str = "val/top1", mode: Literal["max", "min"] = "max") -> None:
        self.monitor = monitor
        self.mode = mode
        self._batches: list[tuple[Tensor, Tensor]] = []
        self._best: _Best | None = None

    def state_dict(self) -> dict[str, Any]:
        """The best epoch so far: the rest of a resumed run may not be as good."""
        return {} if self._best is None else asdict(self._best)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        if state_dict:
            self._best = _Best(**(state_dict | {"found": _Pass(**state_dict["found"])}))

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget an earlier pass."""
        self._batches.clear()

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Tensor | Mapping[str, Any] | None,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the logits where they are: to fetch them would make the host wait for the device."""
        if isinstance(outputs, Tensor) and not _is_trial(trainer):
            self._batches.append((outputs.detach(), batch["label"]))

    on_test_start = on_validation_start
    on_test_batch_end = on_validation_batch_end

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember the pass if it is the best of the fit; report it if there is no fit."""
        found = self._gather(trainer)
        if found is None:
            return
        if trainer.state.fn != TrainerFn.FITTING:
            _report(trainer, pl_module, "val", found, _loaded(trainer), nullcontext())
            return
        value = float(trainer.callback_metrics.get(self.monitor, torch.nan))
        if self._is_better(value, found):
            self._best = _Best(found, value, trainer.current_epoch + 1)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the test split."""
        found = self._gather(trainer)
        if found is not None:
            _report(trainer, pl_module, "test", found, _loaded(trainer), nullcontext())

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the best epoch, while the network is still on its device."""
        if self._best is None or _is_trial(trainer):
            return
        path = self._best_checkpoint(trainer)
        _report(
            trainer,
            pl_module,
            "val",
            self._best.found,
            _shown(path) if path else "none was kept of this epoch",
            weights_of(path, trainer, pl_module) if path else None,
            {"epoch": f"{self._best.epoch}, the best of {trainer.current_epoch} by {self.monitor}"},
            self._best.epoch,
        )

    def _is_better(self, value: float, found: _Pass) -> bool:
        best = self._best
        if best is None or np.isnan(best.value):
            return True
        # A run that goes on from a checkpoint may do so with other photos.
        if not torch.equal(best.found.truth, found.truth):
            return True
        return value > best.value if self.mode == "max" else value < best.value

    def _best_checkpoint(self, trainer: pl.Trainer) -> Path | None:
        """The file of the best epoch, if it was kept."""
        for callback in trainer.checkpoint_callbacks:
            if (
                isinstance(callback, ModelCheckpoint)
                and callback.monitor == self.monitor
                and callback.best_model_score is not None
                and self._best is not None
                and float(callback.best_model_score) == self._best.value
                and Path(callback.best_model_path).is_file()
            ):
                return Path(callback.best_model_path)
        return None

    def _gather(self, trainer: pl.Trainer) -> _Pass | None:
        """The pass that has just ended, of all processes; None if nothing is to be reported."""
        if _is_trial(trainer) or not self._batches:
            return None
        logits, truth = zip(*self._batches, strict=True)
        part = _Pass(torch.cat(logits).float().cpu(), torch.cat(truth).cpu())
        if trainer.world_size == 1:
            return part
        parts: list[_Pass | None] = [None] * trainer.world_size
        distributed.all_gather_object(parts, part)
        return _interleaved([part for part in parts if part is not None])


def _interleaved(parts: Sequence[_Pass]) -> _Pass:
    """Undo `CarSampler`: process r of W had the photos r, r+W, r+2W, …"""
    order = torch.cat(
        [torch.arange(len(part.truth)) * len(parts) + rank for rank, part in enumerate(parts)]
    ).argsort()
    return _Pass(
        torch.cat([part.logits for part in parts])[order],
        torch.cat([part.truth for part in parts])[order],
    )


def _report(
    trainer: pl.Trainer,
    model: pl.LightningModule,
    split: Split,
    found: _Pass,
    checkpoint: str,
    reported_weights: AbstractContextManager[None] | None,
    facts: Mapping[str, str] | None = None,
    epoch: int | None = None,
) -> None:
    """Write a pass to its folder, from the first process; a failure is a warning.

    Args:
        trainer: with its data module and loggers.
        model: that made the pass.
        split: what it was made over.
        found: the pass.
        checkpoint: how to call the weights.
        reported_weights: while it is entered the model has the weights that made the pass; None if
            they are gone.
        facts: for the head of the report.
        epoch: epochs done.
    """
    if not trainer.is_global_zero:
        return
    folder = _log_folder(trainer) / ("report-test" if split == "test" else "report")
    try:
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, CarDataModule):
            raise ValueError("the photos are known only if a CarDataModule loads them")
        subject = Subject(
            kind="checkpoint",
            path=checkpoint,
            network=str(model.hparams["network"]),
            split=split,
            facts={**(facts or {}), "data": str(data.root)},
            config=_config(trainer),
            epoch=epoch,
        )
        evaluation = evaluate_network(
            trainer, model, data, split, found.logits.numpy(), found.truth.numpy(), reported_weights
        )
        problems = write_report(folder, subject, evaluation, _curves(trainer))
        for problem in problems:
            rank_zero_warn(problem)
        _show_in_tensorboard(trainer, folder)
        rank_zero_info(f"report: {_shown(folder / 'index.html')}")
    except Exception as error:  # the report is not worth the run
        rank_zero_warn(f"no report in {folder}: {error or type(error).__name__}")


def _is_trial(trainer: pl.Trainer) -> bool:
    """Whether this is the sanity check or a run that only shows that it runs."""
    return trainer.sanity_checking or bool(trainer.fast_dev_run)  # type: ignore[attr-defined]


def _curves(trainer: pl.Trainer) -> TrainingCurves | None:
    for logger in trainer.loggers:
        if isinstance(logger, CSVLogger):
            logger.save()  # it writes every so many steps
            return read_curves(Path(logger.log_dir) / "metrics.csv")
    return None


def _show_in_tensorboard(trainer: pl.Trainer, folder: Path) -> None:
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            for picture in sorted(folder.glob("*.png")):
                with Image.open(picture) as image:
                    logger.experiment.add_image(
                        f"{folder.name}/{picture.stem}",
                        np.asarray(image.convert("RGB")),
                        trainer.global_step,
                        dataformats="HWC",
                    )


def _log_folder(trainer: pl.Trainer) -> Path:
    return next(iter(_log_folders(trainer)), Path(trainer.default_root_dir))


def _log_folders(trainer: pl.Trainer) -> list[Path]:
    folders = [getattr(logger, "log_dir", None) for logger in trainer.loggers]
    return [Path(folder) for folder in folders if folder]


def _config(trainer: pl.Trainer) -> str | None:
    """What LightningCLI has saved of the run's configuration."""
    for folder in (*_log_folders(trainer), Path(trainer.default_root_dir)):
        if (folder / "config.yaml").is_file():
            return (folder / "config.yaml").read_text(encoding="utf-8")
    return None


def _loaded(trainer: pl.Trainer) -> str:
    """The checkpoint that the command was given."""
    return _shown(Path(trainer.ckpt_path)) if trainer.ckpt_path else "the weights in memory"


def _shown(path: Path) -> str:
    """A path as one would type it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
