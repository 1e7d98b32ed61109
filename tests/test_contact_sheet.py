"""show-augmentations: a picture of what training will see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning.callbacks import Callback
from toy_cars import TOY_CLASSES, write_devkit
from toy_training import toy_data

from lightning_train.callbacks import (
    EMA,
    CutMixAugmentation,
    ErasingAugmentation,
    FramingAugmentation,
    GeometricAugmentation,
    ZoomAugmentation,
)
from lightning_train.contact_sheet import draw_contact_sheet
from lightning_train.data import CarDataModule


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> CarDataModule:
    return toy_data(write_devkit(tmp_path_factory.mktemp("toy")))


def drawn(
    data: CarDataModule, folder: Path, *callbacks: Callback, seed: int = 0, **settings: int
) -> np.ndarray:
    torch.manual_seed(seed)
    out = folder / "sheets" / "sheet.png"
    assert draw_contact_sheet(data, callbacks, TOY_CLASSES, out, **settings) == out
    return np.asarray(Image.open(out).convert("RGB"))


def test_the_sheet_grows_with_its_photos_and_draws(data: CarDataModule, tmp_path: Path) -> None:
    augmentations = [GeometricAugmentation(), EMA()]
    small = drawn(data, tmp_path, *augmentations, photos=2, draws=2).shape
    tall = drawn(data, tmp_path, *augmentations, photos=4, draws=2).shape
    wide = drawn(data, tmp_path, *augmentations, photos=2, draws=4).shape
    assert tall[0] > small[0]
    assert tall[1] == small[1]
    assert wide[0] == small[0]
    assert wide[1] > small[1]


def test_the_seed_decides_what_is_drawn(data: CarDataModule, tmp_path: Path) -> None:
    settings = {"photos": 2, "draws": 2}
    first = drawn(data, tmp_path, FramingAugmentation(1), **settings)
    assert np.array_equal(first, drawn(data, tmp_path, FramingAugmentation(1), **settings))
    other = drawn(data, tmp_path, FramingAugmentation(1), **settings, seed=1)
    assert not np.array_equal(first, other)


def test_the_draws_go_through_all_augmentations_and_the_first_column_through_none(
    data: CarDataModule, tmp_path: Path
) -> None:
    # Noise all over: coloured pixels in the columns of the draws only.
    noise = ErasingAugmentation(1, area=(1.0, 1.0), aspect=1.0)
    sheet = drawn(data, tmp_path, GeometricAugmentation(), noise, photos=2, draws=3).astype(int)
    rough = np.abs(np.diff(sheet, axis=1)).max(-1) > 120
    columns = rough[150:].mean(0)
    quarter = sheet.shape[1] // 4
    assert columns[:quarter].mean() < 0.02
    for column in (1, 2, 3):
        assert columns[column * quarter : (column + 1) * quarter].mean() > 0.04


def test_mixed_photos_say_what_they_are_made_of(data: CarDataModule, tmp_path: Path) -> None:
    def sheet(*augmentations: Callback) -> str:
        torch.manual_seed(0)
        out = draw_contact_sheet(
            data, augmentations, TOY_CLASSES, tmp_path / "sheet.svg", photos=3, draws=3
        )
        return out.read_text()

    assert " % " not in sheet(GeometricAugmentation())
    mixed = sheet(GeometricAugmentation(), CutMixAugmentation(probability=1))
    assert " % Audi TTS Coupe 2012" in mixed
    assert "+ " in mixed
    assert "Geometric → CutMix" in mixed


def test_the_epoch_decides_the_size(data: CarDataModule, tmp_path: Path) -> None:
    def sheet(epoch: int) -> str:
        zoom = ZoomAugmentation({0: 16, 3: 24})
        out = draw_contact_sheet(
            data, [zoom], TOY_CLASSES, tmp_path / "sheet.svg", photos=1, draws=1, epoch=epoch
        )
        return out.read_text()

    assert "16 px in epoch 0" in sheet(0)
    assert "24 px in epoch 5" in sheet(5)


def test_without_an_augmentation_there_is_advice(data: CarDataModule, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"list some under trainer\.callbacks"):
        draw_contact_sheet(data, [EMA()], TOY_CLASSES, tmp_path / "sheet.png")


def test_a_sheet_of_nothing_is_refused(data: CarDataModule, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        draw_contact_sheet(
            data, [GeometricAugmentation()], TOY_CLASSES, tmp_path / "sheet.png", photos=0
        )
