"""The Lightning module: a network, its loss, its optimiser and its metrics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import OptimizerCallable
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from handler.preprocessing import Preprocessing
from lightning_train.data import Batch
from lightning_train.distillation import Distillation
from lightning_train.losses import CrossEntropy, Loss
from lightning_train.networks import build_network
from lightning_train.optimization import parameter_groups
from lightning_train.resuming import check_schedule
from lightning_train.schedules import Schedule

__all__ = ["CarClassifier"]


class CarClassifier(pl.LightningModule):
    """Fine-grained car classification with a cyclical learning rate.

    Args:
        network: name of the network, see `lightning_train.networks.NETWORKS`.
        class_names: the classes in order; filled in from the data module.
        class_counts: training photos of each class; filled in from the data module.
        size: side in pixels that the worker squashes photos to; filled in from the data module.
        mean: per-channel mean of the network's input, likewise.
        std: per-channel standard deviation, likewise.
        weights: "imagenet", a checkpoint or published weights, or None; see `build_network`.
        optimizer: optimiser with its (maximum) learning rate for the head.
        schedule: how the rate moves, see `lightning_train.schedules`; None for a constant rate.
        loss: see `lightning_train.losses`; None for cross-entropy with label smoothing 0.1.
        distillation: teachers to learn from as well.
        backbone_lr_scale: learning rate of the trunk's last stage as a fraction of the head's.
        layer_decay: rate of each stage as a fraction of the next one's.
        dropout: before the head.
        stochastic_depth: probability of skipping the last residual branch.
        compile: whether `torch.compile` makes the network faster: minutes at the start and at every
            new size; worth it on a GPU.
    """

    def __init__(
        self,
        network: str,
        class_names: list[str],
        class_counts: list[int] | None = None,
        size: int = 224,
        mean: tuple[float, float, float] = (0.485, 0.456, 0.406),
        std: tuple[float, float, float] = (0.229, 0.224, 0.225),
        weights: str | None = "imagenet",
        optimizer: OptimizerCallable = torch.optim.AdamW,
        schedule: Schedule | None = None,
        loss: Loss | None = None,
        distillation: Distillation | None = None,
        backbone_lr_scale: float = 1.0,
        layer_decay: float = 1.0,
        dropout: float = 0.2,
        stochastic_depth: float = 0.0,
        compile: bool = False,
    ) -> None:
        super().__init__()
        # How a run trains is in its config.yaml; a checkpoint holds what the network is.
        self.save_hyperparameters("network", "class_names", "size", "mean", "std")
        self.class_names = class_names
        self.network = build_network(
            network, len(class_names), weights, dropout, stochastic_depth, class_names
        )
        self.optimizer = optimizer
        self.schedule = schedule
        # What checkpoints record of it; of the run that is gone on with, and of this one.
        self._resumed_schedule: dict[str, Any] | None = None
        self._own_schedule: dict[str, Any] | None = None
        self.loss = loss or CrossEntropy()
        if class_counts is not None:
            self.loss.set_class_counts(class_counts)
        self.distillation = distillation
        self.backbone_lr_scale = backbone_lr_scale
        self.layer_decay = layer_decay
        self.compiled = compile
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        classes = len(class_names)
        accuracies = MetricCollection(
            {
                "top1": MulticlassAccuracy(classes, average="micro"),
                "top5": MulticlassAccuracy(classes, average="micro", top_k=min(5, classes)),
            }
        )
        # Looking for NaN, which StopOnNonFiniteLoss does, would make the host wait for the GPU.
        self.train_loss = MeanMetric(nan_strategy="disable")
        self.eval_loss = MeanMetric(nan_strategy="disable")
        self.val_metrics = accuracies.clone(prefix="val/")
        self.test_metrics = accuracies.clone(prefix="test/")
        # Convolutions run about 1.5 times faster with channels last, on CPU and GPU alike.
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def preprocessing(self) -> Preprocessing:
        """What makes the network's input of a photo."""
        return Preprocessing(
            self.hparams["size"], tuple(self.hparams["mean"]), tuple(self.hparams["std"])
        )

    def normalize(self, images: Tensor) -> Tensor:
        """Network input from pixels [N, 3, H, W], uint8 0…255 or float 0…1."""
        if images.dtype == torch.uint8:
            images = images.float() / 255
        images = (images - self.mean) / self.std  # type: ignore[operator]
        return images.contiguous(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, C] of pixels [N, 3, H, W], uint8 0…255 or float 0…1."""
        # Only training runs compiled: validation's sizes and last batches would make it dynamic.
        network = self.network if self.training else self.network.forward
        logits: Tensor = network(self.normalize(images))
        return logits

    def prepare_data(self) -> None:
        """Read the teachers before any photo is decoded."""
        if self.distillation is not None and self.trainer.state.fn == TrainerFn.FITTING:
            self.distillation.read(self.class_names)

    def setup(self, stage: str) -> None:
        """Compile in place, so that the weights keep their names."""
        if self.compiled and stage == "fit":
            # Anew for every size and every set of frozen stages, each with its own fast graph.
            torch._dynamo.config.recompile_limit = 64
            self.network.compile(dynamic=False)

    def on_fit_start(self) -> None:
        """Bring the teachers here, and hook the norms that SyncBatchNorm may have replaced."""
        self.network.hook_residual_branches()
        if self.distillation is not None:
            self.distillation.read(self.class_names)  # of the processes that prepare nothing
            self.distillation.prepare(self.device, self.compiled)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step; the augmentation callbacks have already changed the batch."""
        logits = self(batch["image"])
        loss: Tensor = self.loss(logits, batch.get("target", batch["label"]))
        if self.distillation is not None:
            loss = self.distillation.loss(logits, batch["image"], loss)
        # In the log, not in the progress bar, which would wait for the GPU in every step.
        self.log("train/loss", loss.detach())
        self.train_loss.update(loss.detach())
        self.log("train/loss_epoch", self.train_loss, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Accuracy on photos as the worker will see them; returns the logits [N, C]."""
        return self._evaluate(batch, self.val_metrics, "val/loss")

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Likewise on the test split."""
        return self._evaluate(batch, self.test_metrics, "test/loss")

    def _evaluate(self, batch: Batch, metrics: MetricCollection, loss_name: str) -> Tensor:
        logits: Tensor = self(batch["image"]).float()
        metrics.update(logits, batch["label"])
        self.log_dict(metrics, prog_bar=True)
        # Plain cross-entropy, whatever the network is trained with: comparable between runs.
        losses = torch.nn.functional.cross_entropy(logits, batch["label"], reduction="none")
        self.eval_loss.update(losses)
        self.log(loss_name, self.eval_loss)
        return logits

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip fused optimisers' gradients too, where nothing scales them.

        Lightning refuses to in every mixed precision; only float16 has a scaler to wait for.
        """
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        if scaled or gradient_clip_algorithm not in (None, "norm"):
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_val:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), gradient_clip_val)

    def configure_optimizers(self) -> Any:
        """Discriminative rates by parameter group, the schedule stepped after every batch."""
        optimizer = self.optimizer(self.network.parameters())
        groups: Sequence[dict[str, Any]] = parameter_groups(
            self.network,
            lr=optimizer.defaults["lr"],
            weight_decay=optimizer.defaults.get("weight_decay", 0.0),
            backbone_lr_scale=self.backbone_lr_scale,
            layer_decay=self.layer_decay,
        )
        optimizer.param_groups.clear()
        for group in groups:
            optimizer.add_param_group(group)
        if self.schedule is None:
            return optimizer
        self.trainer.fit_loop.setup_data()  # or a run of max_steps does not know its batches yet
        total = self.trainer.estimated_stepping_batches  # by max_epochs or max_steps
        batches = self.trainer.num_training_batches
        steps = max(math.ceil(batches / self.trainer.accumulate_grad_batches), 1)
        self._record_schedule(self.schedule, steps, total / steps)
        scheduler = self.schedule.build(optimizer, steps, total / steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def _record_schedule(self, schedule: Schedule, steps_per_epoch: int, epochs: float) -> None:
        """Note what a resumed run has to keep, and refuse to be one that does not."""
        self._own_schedule = {
            "name": type(schedule).__name__,
            "lengths": schedule.lengths(steps_per_epoch, epochs),
            "epochs": epochs,
            "steps_per_epoch": steps_per_epoch,
        }
        held, self._resumed_schedule = self._resumed_schedule, None
        if held is not None and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            check_schedule(held, self._own_schedule, str(self.trainer.ckpt_path))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record the schedule's lengths, which a resumed run has to keep."""
        if self._own_schedule is not None:
            checkpoint["schedule"] = self._own_schedule

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take them up; checkpoints of before know none."""
        self._resumed_schedule = checkpoint.get("schedule")
