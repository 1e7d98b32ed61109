"""Augmentation: of training photos only, each photo by its own draw, within 0…1."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from toy_augmentation import augmented, photos
from toy_cars import write_devkit
from toy_training import toy_data, toy_model, toy_trainer

from lightning_train.callbacks import (
    Augmentation,
    ColorAugmentation,
    CutMixAugmentation,
    ErasingAugmentation,
    FramingAugmentation,
    GeometricAugmentation,
    MixupAugmentation,
    QualityAugmentation,
    RandAugmentation,
    TrivialAugmentation,
    ZoomAugmentation,
)
from lightning_train.callbacks.augmentation.base import ImageAugmentation
from lightning_train.data import Batch

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
AUGMENTATIONS: dict[str, Callable[[], Augmentation]] = {
    "zoom": lambda: ZoomAugmentation({0: 24}),
    "geometric": lambda: GeometricAugmentation(),
    "color": lambda: ColorAugmentation(),
    "framing": lambda: FramingAugmentation(probability=0.9),
    "quality": lambda: QualityAugmentation(probability=0.9),
    "erasing": lambda: ErasingAugmentation(probability=0.9),
    "trivial": lambda: TrivialAugmentation(),
    "rand": lambda: RandAugmentation(),
    "mixup": lambda: MixupAugmentation(alpha=1.0),
    "cutmix": lambda: CutMixAugmentation(probability=0.9),
}
OFF: dict[str, Callable[[], Augmentation]] = {
    "geometric": lambda: GeometricAugmentation(flip=0, probability=0),
    "color": lambda: ColorAugmentation(probability=0, grayscale=0),
    "framing": lambda: FramingAugmentation(probability=0),
    "quality": lambda: QualityAugmentation(probability=0),
    "erasing": lambda: ErasingAugmentation(probability=0),
    "mixup": lambda: MixupAugmentation(probability=0),
    "cutmix": lambda: CutMixAugmentation(probability=0),
}
each_augmentation = pytest.mark.parametrize("name", AUGMENTATIONS)
each_device = pytest.mark.parametrize("device", DEVICES)


@each_device
@each_augmentation
def test_every_photo_is_augmented_by_its_own_draw(name: str, device: str) -> None:
    # Mixing needs partners that differ; all others get 32 times the same photo.
    images = photos(32) if name in ("mixup", "cutmix") else photos(1).repeat(32, 1, 1, 1)
    result = augmented(AUGMENTATIONS[name](), images.to(device)).cpu()
    changes = result - images / 255 if name in ("mixup", "cutmix") else result
    assert len({tuple(change.flatten().tolist()) for change in changes}) > 10


@each_device
@each_augmentation
@pytest.mark.parametrize("size", [(32, 32), (37, 50)])
def test_photos_of_any_size_come_out_as_floats_from_0_to_1(
    name: str, size: tuple[int, int], device: str
) -> None:
    images = photos(24, *size).to(device)
    images[:8] = 0
    images[8:16] = 255
    before = images.clone()
    result = augmented(AUGMENTATIONS[name](), images)
    assert result.dtype == torch.float32
    assert result.device == images.device
    assert result.shape == ((24, 3, 24, 24) if name == "zoom" else images.shape)
    assert result.isfinite().all()
    assert result.min() >= 0
    assert result.max() <= 1
    assert torch.equal(images, before)  # the loader's photos are not written to


@each_augmentation
def test_photos_may_come_as_bytes_or_as_floats(name: str) -> None:
    images = photos(16)
    from_bytes = augmented(AUGMENTATIONS[name](), images)
    from_floats = augmented(AUGMENTATIONS[name](), images.float() / 255)
    assert torch.equal(from_bytes, from_floats)


@each_augmentation
def test_a_single_photo_is_a_batch(name: str) -> None:
    for seed in range(5):
        assert augmented(AUGMENTATIONS[name](), photos(1), seed).isfinite().all()


@each_augmentation
def test_the_seed_decides_and_nothing_else(name: str) -> None:
    images = photos(16)
    first = augmented(AUGMENTATIONS[name](), images, seed=3)
    assert torch.equal(first, augmented(AUGMENTATIONS[name](), images, seed=3))
    assert not torch.equal(first, augmented(AUGMENTATIONS[name](), images, seed=4))


@each_augmentation
def test_autocast_changes_nothing(name: str) -> None:
    images = photos(16)
    plain = augmented(AUGMENTATIONS[name](), images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(augmented(AUGMENTATIONS[name](), images), plain)


@each_augmentation
def test_no_augmentation_waits_for_the_device(name: str) -> None:
    # Tensors on the device "meta" have no values: whoever asks for one, as `if tensor:` and
    # `.tolist()` do and what would make a GPU's queue run empty, fails.
    batch: Batch = {
        "image": torch.empty(32, 3, 32, 32, device="meta"),
        "label": torch.empty(32, dtype=torch.int64, device="meta"),
    }
    augmentation = AUGMENTATIONS[name]()
    for _ in range(5):
        if isinstance(augmentation, ImageAugmentation):
            assert augmentation.transform(batch["image"]).device.type == "meta"
        else:
            augmentation.apply(batch, classes=5)
            assert batch["target"].device.type == "meta"


@pytest.mark.parametrize("name", OFF)
def test_with_probability_0_photos_stay_as_they_are(name: str) -> None:
    images = photos(16)
    result = augmented(OFF[name](), images)
    # A warp by the identity still computes every pixel from its neighbours.
    torch.testing.assert_close(result, images / 255, rtol=0, atol=1e-4)


class Recorder(pl.Callback):
    """Remembers the photos that training, and those that validation or test were given."""

    def __init__(self) -> None:
        self.train: list[Tensor] = []
        self.other: list[Tensor] = []

    def on_train_batch_start(
        self, trainer: pl.Trainer, model: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        self.train.append(batch["image"])

    def on_validation_batch_start(
        self, trainer: pl.Trainer, model: pl.LightningModule, batch: Batch, *_: object
    ) -> None:
        self.other.append(batch["image"])
        assert "target" not in batch

    on_test_batch_start = on_validation_batch_start


@pytest.fixture(scope="module")
def toy_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("toy")
    write_devkit(root, split="test", per_class=4)
    return write_devkit(root)


def test_augmentations_act_on_training_photos_only(toy_root: Path, tmp_path: Path) -> None:
    everything = [make() for make in AUGMENTATIONS.values()]
    recorder = Recorder()
    trainer = toy_trainer(tmp_path, 1, *everything, recorder)
    data = toy_data(toy_root)
    trainer.fit(toy_model(), data)
    assert {image.dtype for image in recorder.train} == {torch.float32}
    assert {image.shape[-1] for image in recorder.train} == {24}
    trainer.test(trainer.lightning_module, data, verbose=False)
    assert len(recorder.other) == 4  # the sanity check, the validation, two test batches
    assert torch.equal(recorder.other[0], recorder.other[1])
    assert {image.dtype for image in recorder.other} == {torch.uint8}
    assert {image.shape[-1] for image in recorder.other} == {32}


def test_augmentations_act_in_the_order_of_the_configuration(
    toy_root: Path, tmp_path: Path
) -> None:
    before, between, after = Recorder(), Recorder(), Recorder()
    trainer = toy_trainer(
        tmp_path, 1, before, ZoomAugmentation({0: 20}), between, ZoomAugmentation({0: 12}), after
    )
    trainer.fit(toy_model(), toy_data(toy_root))
    seen = [{image.shape[-1] for image in r.train} for r in (before, between, after)]
    assert seen == [{32}, {20}, {12}]


def test_training_photos_grow_with_the_epochs(toy_root: Path, tmp_path: Path) -> None:
    recorder = Recorder()
    trainer = toy_trainer(tmp_path, 3, ZoomAugmentation({0: 16, 2: 32}), recorder)
    trainer.fit(toy_model(), toy_data(toy_root))
    assert [image.shape[-1] for image in recorder.train] == [16] * 12 + [32] * 6


@pytest.mark.parametrize(
    ("epochs", "sizes"),
    [(4, [16, 16, 24, 32]), (1, [16]), (2, [16, 24]), (8, [16, 16, 16, 16, 24, 24, 32, 32])],
)
def test_sizes_by_parts_of_the_run_follow_its_length(
    epochs: int, sizes: list[int], toy_root: Path, tmp_path: Path
) -> None:
    zoom = ZoomAugmentation({0: 16, 0.5: 24, 0.75: 32})
    assert zoom.sizes_of(epochs) == sizes
    recorder = Recorder()
    trainer = toy_trainer(tmp_path, epochs, zoom, recorder)
    trainer.limit_train_batches = 1
    trainer.fit(toy_model(), toy_data(toy_root))
    assert [image.shape[-1] for image in recorder.train] == sizes


def test_sizes_by_parts_of_a_run_without_an_end_are_refused(toy_root: Path, tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path, -1, ZoomAugmentation({0: 16, 0.5: 24}))
    with pytest.raises(ValueError, match=r"\[0.5\] of the run need its length"):
        trainer.fit(toy_model(), toy_data(toy_root))


def test_a_run_resumed_within_an_epoch_has_the_epochs_size(toy_root: Path, tmp_path: Path) -> None:
    every_step = pl.callbacks.ModelCheckpoint(
        tmp_path, filename="{step}", every_n_train_steps=8, save_top_k=-1
    )
    zoom = ZoomAugmentation({0: 16, 1: 24})
    toy_trainer(tmp_path, 2, zoom, every_step).fit(toy_model(), toy_data(toy_root))
    recorder = Recorder()
    trainer = toy_trainer(tmp_path, 2, ZoomAugmentation({0: 16, 1: 24}), recorder)
    trainer.fit(toy_model(), toy_data(toy_root), ckpt_path=tmp_path / "step=8.ckpt")
    assert [image.shape[-1] for image in recorder.train] == [24] * 4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ZoomAugmentation({1: 32}), "epoch 0"),
        (lambda: ZoomAugmentation({0: 32}, min_area=0), "min_area"),
        (lambda: ZoomAugmentation({0: 32, 1.5: 64}), "parts of the run"),
        (lambda: GeometricAugmentation(flip=1.5), "flip is a probability"),
        (lambda: ColorAugmentation(hue=0.7), "hue is the largest change"),
        (lambda: ErasingAugmentation(area=(0.3, 0.1)), "area"),
        (lambda: FramingAugmentation(scale=(0.9, 0.5)), "scale"),
        (lambda: QualityAugmentation(jpeg=0), "jpeg"),
        (lambda: RandAugmentation(magnitude=31), "magnitude"),
        (lambda: MixupAugmentation(alpha=0), "alpha"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(
    make: Callable[[], Augmentation], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make()
