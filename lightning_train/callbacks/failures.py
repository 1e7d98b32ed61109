"""Sane failure: whatever ends a run early, it ends with a whole checkpoint and a way to go on.

Every `fit` gets these without its configuration naming them: `StopOnNonFiniteLoss`, `CleanExit` for
signals, `LastCheckpoint` for what comes without warning, and `AtomicCheckpointIO`, which never
leaves half a checkpoint behind.
"""

from __future__ import annotations

import errno
import io
import math
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor, distributed

__all__ = [
    "AtomicCheckpointIO",
    "CleanExit",
    "DiskFullError",
    "Interrupted",
    "LastCheckpoint",
    "NonFiniteLossError",
    "StopOnNonFiniteLoss",
    "is_disk_full",
]

CHECKPOINT = "interrupted.ckpt"
_STOPPED_BY = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class Interrupted(SystemExit):
    """A signal asked the run to end; the exit code is the shell's for it, 130 or 143."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signal.Signals(signum)


class NonFiniteLossError(ValueError):
    """The training loss is no number any more; the message says what to try."""


class DiskFullError(OSError):
    """A checkpoint does not fit; the message says where and how much is needed."""

    def __str__(self) -> str:
        return str(self.strerror)  # without "[Errno 28]"


def is_disk_full(error: BaseException) -> bool:
    """Whether the file system took no more: full, or a quota or a file-size limit is reached."""
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return isinstance(error, OSError) and error.errno in full


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint beside its place and rename it: there is the old one or the new one.

    Lightning's own way goes through the system's temporary folder; where that is another file
    system, the last step is a copy over the old checkpoint, and a full disk leaves neither.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint.

        Raises:
            DiskFullError: there is no room; what lay at `path` before still does.
        """
        if "://" in str(path):  # an object store: whole or not at all by nature
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        content = io.BytesIO()
        torch.save(checkpoint, content)
        path = Path(path)
        staged = path.with_name(f".{path.name}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with staged.open("wb") as file:
                file.write(content.getbuffer())
                file.flush()
                os.fsync(file.fileno())  # or a power cut may leave the new name on an empty file
            staged.replace(path)
        except OSError as error:
            staged.unlink(missing_ok=True)
            if not is_disk_full(error):
                raise
            needed, free = content.tell(), shutil.disk_usage(path.parent).free
            raise DiskFullError(
                error.errno,
                f"no room for a checkpoint of {needed / 1e6:.0f} MB in {path.parent} "
                f"({free / 1e6:.0f} MB free; {error.strerror}). Checkpoints written before are "
                "whole. Make room there, or set trainer.default_root_dir to another disk",
            ) from error


class LastCheckpoint(ModelCheckpoint):
    """Keeps `last.ckpt`, the run after its latest epoch.

    The `save_last` of a `ModelCheckpoint` that monitors something writes only when that something
    improved (Lightning 2.6): a run resumed from there would repeat all epochs since its best.
    """

    def __init__(self) -> None:
        super().__init__(filename="last", enable_version_counter=False)


class StopOnNonFiniteLoss(Callback):
    """Stop at the first loss that is NaN or infinite, before its step can spoil the weights.

    The loss is fetched from the GPU while the backward pass runs, and looked at before the
    optimiser's step: by then the forward pass is done and the GPU has the whole backward pass
    still to do, so that it never waits for this look. All processes of a DDP run stop together.

    The forward pass that gave such a loss has spoilt the batch norms' running statistics already.
    So a copy is kept of them, taken in one operation before every step.

    Raises:
        NonFiniteLossError: in the middle of the step, which is not taken.
    """

    def __init__(self) -> None:
        self._loss: Tensor | None = None
        self._copied: torch.cuda.Event | None = None
        self._statistics: list[Tensor] = []
        self._before: list[Tensor] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the statistics."""
        self._statistics = [b for b in pl_module.buffers() if b.is_floating_point()]
        self._before = [statistic.clone() for statistic in self._statistics]

    def on_train_batch_start(self, *_: Any) -> None:
        """Keep them."""
        if self._statistics:
            torch._foreach_copy_(self._before, self._statistics)

    def on_before_backward(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor
    ) -> None:
        """Send for the loss."""
        loss = loss.detach()
        if trainer.world_size > 1:
            # The largest of all processes; NaN has no order, so infinity stands for it.
            loss = torch.where(loss.isfinite(), loss.abs(), math.inf)
            # Not the strategy's reduce: it waits at a barrier first.
            distributed.all_reduce(loss, distributed.ReduceOp.MAX)
        if loss.is_cuda:
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            pinned = torch.empty((), dtype=loss.dtype, pin_memory=True)
            loss = pinned.copy_(loss, non_blocking=True)
            self._copied.record()
        self._loss = loss

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Look at it."""
        self._check(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Batches whose gradients are accumulated have no optimiser step."""
        self._check(trainer)

    def _check(self, trainer: pl.Trainer) -> None:
        if self._loss is None:
            return
        if self._copied is not None:
            self._copied.synchronize()
        value, self._loss, self._copied = float(self._loss), None, None
        if not math.isfinite(value):
            for statistic, before in zip(self._statistics, self._before, strict=True):
                statistic.copy_(before)
            rates = [float(group["lr"]) for group in trainer.optimizers[0].param_groups]
            raise NonFiniteLossError(
                f"the loss became {value} in step {trainer.global_step + 1} (epoch "
                f"{trainer.current_epoch}) at a learning rate of {max(rates):.3g}; that step was "
                "not taken. Start again with a lower rate (make lr-range-test CONFIG=… finds one), "
                "or clip the gradients (--trainer.gradient_clip_val 1)"
            )


class CleanExit(Callback):
    """End on Ctrl-C and SIGTERM (SLURM, spot machines, `docker stop`) with a checkpoint to go on.

    The batch in work is finished, `interrupted.ckpt` is written beside the other checkpoints, and
    the process exits with 130 or 143. A second Ctrl-C quits at once. A signal during validation
    does not wait for its end: the resumed run validates again from the first photo.

    Lightning's own handling ends with exit codes 1 and 0 and without a checkpoint, and its
    `OnExceptionCheckpoint` would also save what a bug has left of the weights.

    Args:
        resume_command: what to run to go on from a checkpoint, for the message.
    """

    def __init__(self, resume_command: Callable[[str], str] = "ckpt_path={}".format) -> None:
        self.resume_command = resume_command
        self._signum = 0
        self._handlers: dict[int, Any] = {}

    # When to stop.

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals over from Lightning."""
        if threading.current_thread() is threading.main_thread():
            self._handlers = {signum: signal.getsignal(signum) for signum in _STOPPED_BY}
            for signum in _STOPPED_BY:
                signal.signal(signum, self._remember)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give them back."""
        for signum, handler in self._handlers.items():
            signal.signal(signum, handler)

    def _remember(self, signum: int, frame: FrameType | None) -> None:
        if not self._signum:
            # print() could be in the middle of another print().
            os.write(2, b"\nstopping after this batch; Ctrl-C (again) quits at once\n")
        self._signum = self._signum or signum
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    def _stop_if_asked(self, trainer: pl.Trainer) -> None:
        signum = self._signum
        if trainer.world_size > 1:
            # All processes leave after the same batch, or the others would wait forever.
            agreed = torch.tensor(signum, device=trainer.strategy.root_device)
            distributed.all_reduce(agreed, distributed.ReduceOp.MAX)
            signum = int(agreed)
        if signum:
            raise Interrupted(signum)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Stop here, unless the epoch's validation is due: Lightning would then resume after it."""
        if not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._stop_if_asked(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop here after an epoch's last batch."""
        self._stop_if_asked(trainer)

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Stop here, where it needs no agreement: processes may have unequal shares of photos."""
        if trainer.world_size == 1:
            self._stop_if_asked(trainer)

    # What to leave behind.

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Save a checkpoint if that is what the run needs, and say how to go on."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        try:
            if isinstance(exception, Interrupted):
                path = self._save(trainer)
                if trainer.is_global_zero:
                    print(
                        f"stopped by {_STOPPED_BY[exception.signum]} in epoch "
                        f"{trainer.current_epoch} after step {trainer.global_step}; saved {path}. "
                        f"Go on with:\n  {self.resume_command(path)}",
                        file=sys.stderr,
                    )
            elif isinstance(exception, NonFiniteLossError):
                if _finite(pl_module):
                    path = self._save(trainer)
                    exception.add_note(f"The state before that step is in {path}. {self._on(path)}")
                else:
                    exception.add_note(f"The weights are spoilt already. {self._last(trainer)}")
            elif is_disk_full(exception):
                exception.add_note(self._last(trainer))
        except DiskFullError as error:
            error.add_note(self._last(trainer))
            raise

    def _on(self, path: str) -> str:
        return (
            f"To go on from it (at its own rates):\n  {self.resume_command(path)}\n"
            f"To start again from its weights: --model.weights {path}"
        )

    def _last(self, trainer: pl.Trainer) -> str:
        folder = Path(_folder(trainer))
        saved = sorted(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
        if not saved:
            return f"There is no earlier checkpoint in {folder}: start again."
        return f"The last whole checkpoint is {saved[-1]}. Go on from it with:\n  " + (
            self.resume_command(str(saved[-1]))
        )

    def _save(self, trainer: pl.Trainer) -> str:
        path = f"{_folder(trainer)}/{CHECKPOINT}"
        trainer.save_checkpoint(path, weights_only=False)
        return path

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Half a validation counts for nothing: the resumed run shall begin it again.

        Lightning would validate the remaining photos alone, or none. It repeats a validation that
        broke off within a batch; so that is what the checkpoint says, in its first batch.
        """
        if not (trainer.validating and self._signum):
            return
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
        progress["current"] = dict.fromkeys(progress["current"], 0)
        seen = progress["total"]["completed"]
        progress["total"] = {
            "ready": seen + 1, "started": seen + 1, "processed": seen, "completed": seen
        }  # fmt: skip
        progress["is_last_batch"] = False


def _finite(module: torch.nn.Module) -> bool:
    return all(bool(value.isfinite().all()) for value in module.state_dict().values())


def _folder(trainer: pl.Trainer) -> str:
    """Where this run's checkpoints are."""
    saver = trainer.checkpoint_callback
    if isinstance(saver, ModelCheckpoint) and saver.dirpath is not None:
        return str(saver.dirpath)
    return f"{trainer.log_dir or trainer.default_root_dir}/checkpoints"
