"""The Lightning module: a network, its loss, its optimiser and its metrics."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from lightning_train.data import Batch
from lightning_train.networks import build_network
from lightning_train.schedules import CyclicSchedule

__all__ = ["CarClassifier"]


class CarClassifier(pl.LightningModule):
    """Fine-grained car classification with a cyclical learning rate.

    Args:
        network: name of the network, see `lightning_train.networks.NETWORKS`.
        class_names: the classes in order; filled in from the data module.
        size: side in pixels that the worker squashes photos to; filled in from the data module.
        mean: per-channel mean of the network's input, likewise.
        std: per-channel standard deviation, likewise.
        weights: "imagenet", a checkpoint of this project, or None; see `build_network`.
        optimizer: optimiser with its (maximum) learning rate for the head.
        schedule: the cycle, or None for a constant rate.
        backbone_lr_scale: learning rate of the trunk as a fraction of the head's: pretrained
            weights want smaller steps than a new head.
        label_smoothing: weight of the uniform distribution in the target.
        dropout: before the head.
    """

    def __init__(
        self,
        network: str,
        class_names: list[str],
        size: int = 224,
        mean: tuple[float, float, float] = (0.485, 0.456, 0.406),
        std: tuple[float, float, float] = (0.229, 0.224, 0.225),
        weights: str | None = "imagenet",
        optimizer: OptimizerCallable = torch.optim.AdamW,
        schedule: CyclicSchedule | None = None,
        backbone_lr_scale: float = 1.0,
        label_smoothing: float = 0.1,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        # `weights` says where the run started; a checkpoint holds its own.
        self.save_hyperparameters(ignore=["optimizer", "schedule", "weights"])
        self.network = build_network(network, len(class_names), weights, dropout)
        self.optimizer = optimizer
        self.schedule = schedule
        self.backbone_lr_scale = backbone_lr_scale
        self.loss = nn.CrossEntropyLoss(label_smoothing=label_smoothing)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        classes = len(class_names)
        accuracies = MetricCollection(
            {
                "top1": MulticlassAccuracy(classes, average="micro"),
                "top5": MulticlassAccuracy(classes, average="micro", top_k=min(5, classes)),
            }
        )
        self.train_loss = MeanMetric()
        self.val_metrics = accuracies.clone(prefix="val/")
        self.test_metrics = accuracies.clone(prefix="test/")
        # Convolutions run about 1.5 times faster with channels last, on CPU and GPU alike.
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def normalize(self, images: Tensor) -> Tensor:
        """Network input from pixels [N, 3, H, W], uint8 0…255 or float 0…1."""
        if images.dtype == torch.uint8:
            images = images.float() / 255
        images = (images - self.mean) / self.std  # type: ignore[operator]
        return images.contiguous(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, C] of pixels [N, 3, H, W], uint8 0…255 or float 0…1."""
        logits: Tensor = self.network(self.normalize(images))
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step; the augmentation callbacks have already changed the batch."""
        loss: Tensor = self.loss(self(batch["image"]), batch["label"])
        self.train_loss.update(loss.detach())
        self.log("train/loss", self.train_loss, on_step=True, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Accuracy on photos as the worker will see them."""
        self._evaluate(batch, self.val_metrics, "val/loss")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Likewise on the test split."""
        self._evaluate(batch, self.test_metrics, "test/loss")

    def _evaluate(self, batch: Batch, metrics: MetricCollection, loss_name: str) -> None:
        logits = self(batch["image"]).float()
        metrics.update(logits, batch["label"])
        self.log_dict(metrics, prog_bar=True)
        self.log(loss_name, self.loss(logits, batch["label"]), batch_size=len(logits))

    def configure_optimizers(self) -> Any:
        """Head and trunk as two groups, no weight decay on biases and norms, cycle per batch."""
        head = set(self.network.head.parameters())
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for parameter in self.network.parameters():
            if parameter.requires_grad:
                groups.setdefault((parameter in head, parameter.ndim > 1), []).append(parameter)
        optimizer = self.optimizer([p for params in groups.values() for p in params])
        defaults = dict(optimizer.defaults)
        optimizer.param_groups.clear()
        for (in_head, decayed), parameters in groups.items():
            optimizer.add_param_group(
                {
                    "params": parameters,
                    "lr": defaults["lr"] * (1.0 if in_head else self.backbone_lr_scale),
                    "weight_decay": defaults.get("weight_decay", 0.0) if decayed else 0.0,
                }
            )
        if self.schedule is None:
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches) // max(self.trainer.max_epochs or 1, 1)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {
                "scheduler": self.schedule.build(optimizer, steps),
                "interval": "step",
            },
        }
