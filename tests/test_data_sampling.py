"""Every process sees its share of the same batches; classes are drawn as often as was asked for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from toy_cars import write_class_folders, write_devkit

from handler.labels import stanford_cars_labels
from lightning_train.data import CarDataModule, DatasetError, Sample
from lightning_train.data.sampler import CarSampler, sampling_weights
from lightning_train.data.subsets import choose_classes, choose_photos

PHOTOS = range(103)


def batches(sampler: CarSampler, processes: int = 1) -> list[list[int]]:
    """What a DataLoader makes of it on one of so many processes."""
    loader = torch.utils.data.DataLoader(
        sampler.dataset, sampler.batch_size // processes, sampler=sampler, collate_fn=list
    )
    return list(loader)


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("photos", [103, 95, 32, 20])  # 95: the first ranks could fill one more
def test_several_processes_see_the_batches_of_one(
    processes: int, weighted: bool, photos: int
) -> None:
    weights = torch.arange(1.0, photos + 1) if weighted else None
    settings = {"batch_size": 32, "shuffle": True, "weights": weights, "seed": 5}
    whole = CarSampler(range(photos), **settings)
    ranks = [
        CarSampler(range(photos), **settings, rank=rank, processes=processes)
        for rank in range(processes)
    ]
    for epoch in range(3):
        for sampler in (whole, *ranks):
            sampler.set_epoch(epoch)
        shares = zip(*(batches(rank, processes) for rank in ranks), strict=True)
        together = [[photo for share in parts for photo in share] for parts in shares]
        expected = batches(whole)
        assert [sorted(batch) for batch in together] == [sorted(batch) for batch in expected]
        assert len(expected) == max(photos // 32, 1)


def test_training_leaves_out_only_what_does_not_fill_a_batch() -> None:
    seen = [photo for batch in batches(CarSampler(PHOTOS, 32, shuffle=True)) for photo in batch]
    assert len(seen) == len(set(seen)) == 96
    assert sorted(batches(CarSampler(range(20), 32, shuffle=True))[0]) == list(range(20))


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_validation_sees_every_photo_once_on_whatever_many_processes(processes: int) -> None:
    shares = [
        batches(CarSampler(PHOTOS, 32, rank=rank, processes=processes), processes)
        for rank in range(processes)
    ]
    assert sorted(photo for share in shares for batch in share for photo in batch) == list(PHOTOS)
    if processes == 1:
        assert [photo for batch in shares[0] for photo in batch] == list(PHOTOS)


def test_a_resumed_run_goes_on_in_the_middle_whatever_the_number_of_processes() -> None:
    expected = batches(CarSampler(PHOTOS, 32, shuffle=True))
    ranks = [
        CarSampler(PHOTOS, 32, rank=rank, processes=2, shuffle=True, batches_done=lambda: 1)
        for rank in range(2)
    ]
    rest = zip(*(batches(rank, 2) for rank in ranks), strict=True)
    assert [sorted(one + other) for one, other in rest] == [sorted(b) for b in expected[1:]]
    # Only the epoch under way is cut short, and even that one tells its whole length.
    assert len(batches(ranks[0], 2)) == 3
    assert len(ranks[0]) == 48


@pytest.mark.parametrize(
    ("power", "expected"),
    [(0.5, [9 / 14, 4 / 14, 1 / 14]), (1.0, [1 / 3, 1 / 3, 1 / 3])],  # of 81, 16 and 1 photos
)
def test_classes_are_drawn_as_often_as_the_power_says(power: float, expected: list[float]) -> None:
    class_ids = [0] * 81 + [1] * 16 + [2]
    weights = sampling_weights(class_ids, power)
    sampler = CarSampler(class_ids, 98, shuffle=True, weights=weights)
    drawn: Counter[int] = Counter()
    for epoch in range(200):
        sampler.set_epoch(epoch)
        drawn.update(class_ids[position] for position in sampler)
    assert [drawn[c] / drawn.total() for c in range(3)] == pytest.approx(expected, abs=0.01)
    assert sampling_weights(class_ids, 0.0) is None


# --- subsets ------------------------------------------------------------------------------------


def photos_of(module: CarDataModule, split: str) -> list[str]:
    return [sample.path.name for sample in module.dataset(split).samples]  # type: ignore[arg-type]


def test_a_long_tail_thins_training_out_and_leaves_validation_alone(toy_root: Path) -> None:
    whole = CarDataModule(str(toy_root), size=32)
    tail = CarDataModule(str(toy_root), size=32, long_tail=9)
    assert whole.class_counts == [18, 18, 18]
    assert tail.class_counts == [18, 6, 2]  # 18 · 9^(-k/2)
    assert photos_of(tail, "val") == photos_of(whole, "val")
    assert photos_of(CarDataModule(str(toy_root), long_tail=9), "train") == photos_of(tail, "train")
    assert CarDataModule(str(toy_root), long_tail=100).class_counts == [18, 1, 1]


def test_a_larger_subset_holds_the_smaller_one(toy_root: Path) -> None:
    few, more = (CarDataModule(str(toy_root), photos_per_class=n) for n in (3, 7))
    assert few.class_counts == [3, 3, 3]
    assert set(photos_of(few, "train")) < set(photos_of(more, "train"))
    assert CarDataModule(str(toy_root), photos_per_class=100).class_counts == [18, 18, 18]
    assert CarDataModule(str(toy_root), photos_per_class=8, long_tail=4).class_counts == [8, 4, 2]


def test_which_photos_are_kept_does_not_depend_on_the_reading_order() -> None:
    samples = [Sample(Path(f"{i:03d}.jpg"), i % 3) for i in range(60)]
    kept = {sample.path for sample in choose_photos(samples, 3, 4, None)}
    assert {sample.path for sample in choose_photos(samples[::-1], 3, 4, None)} == kept


def test_few_of_many_classes_are_a_cross_section() -> None:
    labels = stanford_cars_labels()
    few, more = choose_classes(labels, 20), choose_classes(labels, 40)
    assert [label for label in more if label in few] == few
    assert len({label.make for label in few}) > 10  # the first 20 are of 4 makes
    assert choose_classes(labels, None) == list(labels)


def test_fewer_classes_are_numbered_anew_in_every_split(tmp_path: Path) -> None:
    root = write_class_folders(tmp_path, per_class=10)
    write_class_folders(root, per_class=4, split="test")
    whole, module = CarDataModule(str(root)), CarDataModule(str(root), max_classes=2, size=32)
    assert [name for name in whole.class_names if name in module.class_names] == module.class_names
    assert module.class_counts == [9, 9]
    for split in ("train", "val", "test"):
        dataset = module.dataset(split)  # type: ignore[arg-type]
        assert [label.label for label in dataset.labels] == module.class_names
        assert [label.class_id for label in dataset.labels] == [0, 1]
        for sample in dataset.samples:
            assert sample.path.parent.name == module.class_names[sample.class_id].replace("/", "-")
    module.setup("fit")
    assert {int(label) for batch in module.val_dataloader() for label in batch["label"]} == {0, 1}


def test_where_there_is_nothing_to_train_on_every_class_counts_the_same(tmp_path: Path) -> None:
    root = write_devkit(tmp_path, per_class=4, split="test")
    assert CarDataModule(str(root)).class_counts == [1, 1, 1]
    with pytest.raises(DatasetError, match="cars_train_annos"):
        CarDataModule(str(root)).setup("fit")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("batch_size", 0), ("sampling_power", 1.5), ("sampling_power", -0.1), ("workers", -1),
        ("max_classes", 1), ("photos_per_class", 0), ("long_tail", 0.5),
    ],
)  # fmt: skip
def test_an_impossible_setting_is_named(tmp_path: Path, setting: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"data\.{setting}={value}: must be"):
        CarDataModule(str(tmp_path), **{setting: value})
