"""How fast the training loop is, beside its own ceiling and beside the usual loop.

    make bench-train CONFIG=lightning_train/configs/….yaml DATA=folder

Three loops take turns in one process, with the same network, batch and precision:

- **this loop**: `fit` as configured: data module, augmentation callbacks, average, rates (but no
  validation, and no checkpoints);
- **ceiling**: forward, backward and optimiser step on one synthetic batch that never changes;
- **usual loop**: a DataLoader with worker processes that decodes and transforms photo by photo on
  the CPU, as torchvision's reference for classification does it (references/classification).

Only the ratios are meant to be compared between machines.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_train.callbacks.clock import StepClock, now
from lightning_train.classifier import CarClassifier
from lightning_train.cli import CarCLI
from lightning_train.data import CarDataModule, Sample
from lightning_train.user_errors import exit_code

# After lightning_train, which makes them importable (its module torchvision_compat).
# isort: split
import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint, ProgressBar
from torchvision.transforms import autoaugment, transforms
from torchvision.transforms.functional import InterpolationMode

__all__ = ["bench_training"]

_OUT = Path("benchmarks/results")
_NOT_MEASURED = (ModelCheckpoint, ProgressBar)


def bench_training(
    model: CarClassifier,
    data: CarDataModule,
    make_trainer: Callable[..., pl.Trainer],
    epoch: int,
    rounds: int = 3,
    steps: int = 20,
    warmup: int = 5,
    workers: int | None = None,
) -> dict[str, Any]:
    """Measure the three loops in turn.

    Args:
        model: as configured.
        data: as configured.
        make_trainer: builds the configured trainer, with keyword arguments changed.
        epoch: whose size and frozen stages are measured.
        rounds: turns of each loop.
        steps: measured steps of a turn.
        warmup: steps before them.
        workers: processes of the usual loop's DataLoader; by default one a core.

    Returns:
        Photos a second of each loop (median of the rounds, and all of them), and the ratios.
    """
    workers = (torch.get_num_threads() if workers is None else workers) or 1
    speeds: dict[str, list[float]] = {"this loop": [], "ceiling": [], "usual loop": []}
    shape: tuple[int, ...] = ()
    for _ in range(rounds):
        clock = StepClock(warmup, steps, epoch)
        trainer = make_trainer(
            max_steps=warmup + steps, limit_val_batches=0, num_sanity_val_steps=0,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        callbacks[:] = [clock, *(c for c in callbacks if not isinstance(c, _NOT_MEASURED))]
        trainer.fit(model, datamodule=data)
        shape, device = clock.shape, trainer.strategy.root_device
        speeds["this loop"].append(steps * shape[0] / clock.seconds)

        step = _Step(model, trainer, device)
        speeds["ceiling"].append(_speed(step, _synthetic(shape, device), steps, warmup))
        loader = _usual_loader(data, shape, workers)
        speeds["usual loop"].append(_speed(step, _forever(loader, device), steps, warmup, log=True))
    median = {name: statistics.median(values) for name, values in speeds.items()}
    return {
        "network": model.hparams["network"],
        "epoch": epoch,
        "batch": list(shape),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "precision": str(trainer.precision),
        "device": _device_name(device),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "workers_of_the_usual_loop": workers,
        "steps": steps,
        "photos_per_second": median,
        "rounds": speeds,
        "of_ceiling": median["this loop"] / median["ceiling"],
        "of_usual_loop": median["this loop"] / median["usual loop"],
    }


class _Step:
    """One optimiser step as a plain loop makes it: same network, precision and clipping."""

    def __init__(self, model: CarClassifier, trainer: pl.Trainer, device: torch.device) -> None:
        self.model = model.to(device).train()
        self.device = device
        precision = str(trainer.precision)
        self.autocast = torch.float16 if precision.startswith("16") else torch.bfloat16
        self.mixed = "mixed" in precision
        self.clip = trainer.gradient_clip_val
        self.optimizer = model.optimizer(model.network.parameters())

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(self.device.type, self.autocast, enabled=self.mixed):
            logits = self.model.network(images)
            loss = nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if self.clip:
            nn.utils.clip_grad_norm_(self.model.network.parameters(), self.clip)
        self.optimizer.step()
        return loss, logits


def _speed(
    step: _Step,
    batches: Iterator[tuple[Tensor, Tensor]],
    steps: int,
    warmup: int,
    *,
    log: bool = False,
) -> float:
    start, photos = 0.0, 0
    for number in range(warmup + steps):
        if number == warmup:
            start, photos = now(step.device), 0
        images, labels = next(batches)
        loss, logits = step(images, labels)
        if log:  # the reference reads loss and accuracy back in every step
            loss.item()
            (logits.argmax(1) == labels).float().mean().item()
        photos += len(labels)
    return photos / (now(step.device) - start)


def _synthetic(shape: tuple[int, ...], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    images = torch.randn(shape, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(shape[0], dtype=torch.int64, device=device)
    while True:
        yield images, labels


class _PhotoFiles(Dataset[tuple[Tensor, int]]):
    """torchvision's ImageFolder: open, decode and transform one photo at a time."""

    def __init__(self, samples: tuple[Sample, ...], transform: Callable[[Any], Tensor]) -> None:
        self.samples = samples
        self.transform = transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        sample = self.samples[index]
        with Image.open(sample.path) as image:
            return self.transform(image.convert("RGB")), sample.class_id


def _usual_loader(data: CarDataModule, shape: tuple[int, ...], workers: int) -> DataLoader[Any]:
    """The reference's ClassificationPresetTrain, with TrivialAugment and random erasing."""
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(shape[-1], interpolation=InterpolationMode.BILINEAR),
            transforms.RandomHorizontalFlip(0.5),
            autoaugment.TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR),
            transforms.PILToTensor(),
            transforms.ConvertImageDtype(torch.float),
            transforms.Normalize(data.preprocessing.mean, data.preprocessing.std),
            transforms.RandomErasing(p=0.1),
        ]
    )
    return DataLoader(
        _PhotoFiles(data.dataset("train").samples, transform),
        batch_size=shape[0], shuffle=True, drop_last=True, num_workers=workers,
        persistent_workers=True, pin_memory=torch.cuda.is_available(),
    )  # fmt: skip


def _forever(loader: DataLoader[Any], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        for images, labels in loader:
            images = images.to(device, non_blocking=True)
            images = images.contiguous(memory_format=torch.channels_last)
            yield images, labels.to(device, non_blocking=True)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads, {platform.machine()}"


def _write_results(result: dict[str, Any], out: Path = _OUT) -> None:
    """Print a table, and write it beside the raw figures."""
    name = (
        f"training-{result['network']}-{result['device'].split(',')[0].replace(' ', '-').lower()}"
    )
    rows = [
        (loop, speed, speed / result["photos_per_second"]["ceiling"])
        for loop, speed in result["photos_per_second"].items()
    ]
    table = Table("loop", "photos/s", "of the ceiling")
    lines = ["| loop | photos/s | of the ceiling |", "|---|---|---|"]
    for loop, speed, share in rows:
        table.add_row(loop, f"{speed:,.1f}", f"{share:.2f}")
        lines.append(f"| {loop} | {speed:,.1f} | {share:.2f} |")
    Console().print(table)
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    about = (
        f"# Training speed: {result['network']}\n\nWritten by `make bench-train`. Batch "
        f"{result['batch']} as in epoch {result['epoch']}, "
        f"{result['trained_parameters'] / 1e6:.1f} M trained parameters, {result['precision']}, "
        f"{result['device']}, torch {result['torch']}; "
        f"median of {len(result['rounds']['ceiling'])} rounds of {result['steps']} steps, the "
        f"three loops in turn; the usual loop has {result['workers_of_the_usual_loop']} worker "
        "processes.\n\n"
    )
    (out / f"{name}.md").write_text(about + "\n".join(lines) + "\n")
    print(f"written to {out / name}.md and .json")


def main() -> None:
    """Measure what the command line configures, as `fit` would take it."""
    parser = argparse.ArgumentParser(
        description="Training speed beside its ceiling and the usual loop; takes what fit takes.",
        epilog="example: python -m benchmarks.training --config lightning_train/configs/"
        "efficientnet_lite0_cpu.yaml --data.root /path/to/data",
    )
    parser.add_argument("--rounds", type=int, default=3, help="turns of each loop (default: 3)")
    parser.add_argument("--steps", type=int, default=20, help="measured steps of a turn (20)")
    parser.add_argument("--warmup", type=int, default=5, help="steps before them (5)")
    parser.add_argument("--workers", type=int, help="of the usual loop (one a core)")
    parser.add_argument("--epoch", type=int, help="whose size is measured (the last)")
    parser.add_argument("--out", type=Path, default=_OUT, help=f"folder of the results ({_OUT})")
    options, settings = parser.parse_known_args()
    if min(options.rounds, options.steps, options.warmup) < 1:
        parser.error("--rounds, --steps and --warmup are at least 1")
    with TemporaryDirectory() as logs:  # the loggers log as ever, but nobody will read it
        cli = CarCLI(["fit", *settings], run=False)
        result = bench_training(
            cli.model,
            cli.datamodule,
            partial(cli.instantiate_trainer, default_root_dir=logs),
            max(cli.trainer.max_epochs or 1, 1) - 1 if options.epoch is None else options.epoch,
            options.rounds,
            options.steps,
            options.warmup,
            options.workers,
        )
    _write_results(result, options.out)


if __name__ == "__main__":
    sys.exit(exit_code(main))
