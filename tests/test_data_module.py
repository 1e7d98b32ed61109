"""The same batches wherever the photos are kept; broken photos are reported before training."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from toy_cars import write_devkit
from toy_recorder import Recorder

from handler.preprocessing import Preprocessing
from lightning_train.data import CarDataModule, DatasetError, load_crop
from lightning_train.data.storage import choose_storage

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def toy_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_devkit(tmp_path_factory.mktemp("toy"))
    return write_devkit(root, per_class=4, split="test")


@pytest.fixture
def broken_root(tmp_path: Path) -> Path:
    """57 good photos of 60; one is cut off, one is no image and one is empty."""
    root = write_devkit(tmp_path)
    folder = root / "stanford_cars/cars_train"
    (folder / "00007.jpg").write_bytes((folder / "00007.jpg").read_bytes()[:700])
    (folder / "00001.jpg").write_text("no image")
    (folder / "00060.jpg").write_bytes(b"")
    return root


def data(root: Path, **changes: Any) -> CarDataModule:
    return CarDataModule(str(root), **({"size": 32, "batch_size": 9} | changes))


def run(folder: Path, **settings: Any) -> pl.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return pl.Trainer(
        **({"accelerator": "cpu", "devices": 1, "max_epochs": 1} | quiet | settings),
        default_root_dir=folder,
    )


def drain(loader: torch.utils.data.DataLoader[Any]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(batch["image"], batch["label"]) for batch in loader]


def test_the_module_gives_the_pixels_that_the_worker_would_see(toy_root: Path) -> None:
    module = data(toy_root)
    module.setup("validate")
    samples = module.dataset("val").samples
    images, labels = map(torch.cat, zip(*drain(module.val_dataloader()), strict=True))
    assert len(images) == len(samples) == 6
    assert labels.tolist() == [sample.class_id for sample in samples]
    for image, sample in zip(images, samples, strict=True):
        expected = Preprocessing(32, (0, 0, 0), (1, 1, 1))(load_crop(sample, 32))
        assert (image.permute(1, 2, 0).numpy() == expected).all()


@pytest.mark.parametrize(
    "changes",
    [{"storage": "device"}, {"storage": "stream", "workers": 0}, {"storage": "stream"}],
    ids=["device", "stream", "stream in workers"],
)
def test_the_batches_are_the_same_wherever_the_photos_are_kept(
    toy_root: Path, changes: dict[str, Any]
) -> None:
    one, other = data(toy_root, storage="memory"), data(toy_root, **changes)
    for module in (one, other):
        module.setup("fit")
        module.setup("test")
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        batches = zip(drain(getattr(one, name)()), drain(getattr(other, name)()), strict=True)
        for expected, got in batches:
            assert torch.equal(expected[0], got[0])
            assert torch.equal(expected[1], got[1])


def test_what_has_no_room_is_streamed() -> None:
    assert choose_storage(10**6, CPU, processes=1) == "memory"
    assert choose_storage(10**15, CPU, processes=1) == "stream"
    assert choose_storage(10**8, CPU, processes=10**7) == "stream"  # each has a copy of its own


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_photos_are_kept_there(toy_root: Path, tmp_path: Path) -> None:
    one, other = Recorder(), Recorder()
    module = data(toy_root, seed=1)
    run(tmp_path, accelerator="gpu").fit(one, module)
    assert {batch["image"].device.type for batch in module.train_dataloader()} == {"cuda"}
    run(tmp_path, accelerator="cpu").fit(other, data(toy_root, seed=1))
    assert one.steps == other.steps


def test_the_files_are_read_once(tmp_path: Path) -> None:
    module = data(write_devkit(tmp_path))
    assert len(module.class_names) == 3
    (tmp_path / "stanford_cars/devkit/cars_train_annos.mat").unlink()
    assert module.class_counts == [18, 18, 18]
    module.setup("fit")
    assert len(module.train_dataloader()) == 6


def test_overfitting_some_batches_sees_the_same_photos_in_every_epoch(
    toy_root: Path, tmp_path: Path
) -> None:
    recorder = Recorder()
    run(tmp_path, max_epochs=3, overfit_batches=2).fit(recorder, data(toy_root))
    seen = [photos for _, _, photos in recorder.steps]
    assert len(seen) == 6
    assert seen[:2] == seen[2:4] == seen[4:]


@pytest.mark.parametrize("storage", ["memory", "stream"])
def test_all_unreadable_photos_are_counted_before_training_begins(
    broken_root: Path, storage: str
) -> None:
    message = (
        r"3 of 60 photos cannot be used: .*00001\.jpg cannot be read as an image .*"
        r"the same goes for .*00007\.jpg, .*00060\.jpg\); .*data\.unreadable=skip"
    )
    module = data(broken_root, storage=storage)
    for _ in range(2):  # and the second attempt does not start with what the first one got
        with pytest.raises(DatasetError, match=message):
            module.setup("fit")


@pytest.mark.parametrize("storage", ["memory", "stream"])
def test_unreadable_photos_are_left_out_if_one_says_so(broken_root: Path, storage: str) -> None:
    module = data(broken_root, storage=storage, unreadable="skip", batch_size=1)
    with pytest.warns(UserWarning, match="3 of 60 photos cannot be used") as caught:
        module.setup("fit")
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module.setup("fit")  # once is enough
        batches = drain(module.train_dataloader()) + drain(module.val_dataloader())
    kept = [s for split in ("train", "val") for s in module.dataset(split).samples]
    assert len(batches) == len(kept) == 57
    assert not {"00001.jpg", "00007.jpg", "00060.jpg"} & {sample.path.name for sample in kept}
    assert sum(module.class_counts) == 54  # known before


def test_photos_that_are_all_unreadable_do_not_start_a_run(tmp_path: Path) -> None:
    root = write_devkit(tmp_path, per_class=4)
    for path in (root / "stanford_cars/cars_train").iterdir():
        path.write_text("no image")
    with (
        pytest.warns(UserWarning, match="12 of 12 photos"),
        pytest.raises(DatasetError, match="0 usable train photos"),
    ):
        data(root, unreadable="skip").setup("fit")


def test_a_photo_that_goes_missing_while_it_is_streamed_is_named(tmp_path: Path) -> None:
    root = write_devkit(tmp_path, per_class=4)
    module = data(root, storage="stream", workers=1, batch_size=3)
    module.setup("fit")
    shutil.rmtree(root / "stanford_cars/cars_train")
    with pytest.raises(DatasetError, match=r"\.jpg cannot be read"):
        list(module.train_dataloader())


def test_a_batch_that_the_processes_cannot_share_is_refused_with_one_that_they_can(
    toy_root: Path, tmp_path: Path
) -> None:
    module = data(toy_root)
    module.trainer = run(tmp_path, devices=2, strategy="ddp")
    with pytest.raises(ValueError, match=r"data\.batch_size=9 .* multiple of 2, such as 8"):
        module.setup("fit")


def test_each_process_loads_its_share_of_the_batch(toy_root: Path, tmp_path: Path) -> None:
    module = data(toy_root, batch_size=8)
    module.trainer = run(tmp_path, devices=2, strategy="ddp")
    module.setup("fit")
    batches = drain(module.train_dataloader())
    assert [len(labels) for _, labels in batches] == [4] * 6
