"""What each augmentation does to a photo, against references and by measure."""

from __future__ import annotations

from collections.abc import Callable

import kornia.augmentation as kaug
import pytest
import torch
from kornia.filters import gaussian_blur2d
from torch import Tensor
from torchvision.transforms.v2 import functional as tv
from toy_augmentation import augmented, photos

from lightning_train.callbacks import (
    ColorAugmentation,
    ErasingAugmentation,
    FramingAugmentation,
    GeometricAugmentation,
    QualityAugmentation,
    RandAugmentation,
    TrivialAugmentation,
)
from lightning_train.callbacks.augmentation.policies import _COLOR


def test_a_flip_is_a_mirror_image() -> None:
    images = photos(4)
    flipped = augmented(GeometricAugmentation(flip=1, probability=0), images)
    torch.testing.assert_close(flipped, images.flip(-1) / 255, rtol=0, atol=1e-4)


def test_one_warp_does_what_one_after_another_would() -> None:
    # Blurred, so that the second resampling of kornia's own does not show.
    images = gaussian_blur2d(photos(32, 96, 96) / 255, (21, 21), (5.0, 5.0))
    result = augmented(GeometricAugmentation(0.5, degrees=10, perspective=0.3), images)
    torch.manual_seed(0)
    for step in (
        kaug.RandomHorizontalFlip(p=0.5),
        kaug.RandomRotation(10.0, p=0.5),
        kaug.RandomPerspective(0.3, p=0.5),
    ):
        images = step(images)
    inside = (..., slice(32, 64), slice(32, 64))  # kornia's edges are black
    torch.testing.assert_close(result[inside], images[inside], rtol=0, atol=0.01)


NO_CHANGE = {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0, "grayscale": 0}


@pytest.mark.parametrize(
    ("setting", "reference"),
    [
        ("brightness", tv.adjust_brightness),
        ("contrast", tv.adjust_contrast),
        ("saturation", tv.adjust_saturation),
    ],
)
def test_light_and_colour_change_by_a_factor_within_the_limit(
    setting: str, reference: Callable[[Tensor, float], Tensor]
) -> None:
    images = 0.25 + 0.4 * photos(64) / 255  # far from 0 and 1, so that nothing is cut off
    color = ColorAugmentation(**(NO_CHANGE | {setting: 0.3}), probability=1)  # type: ignore[arg-type]
    factors = []
    for before, after in zip(images, augmented(color, images), strict=True):
        # All changes are linear in the factor, so two references give it away.
        low, high = reference(before, 0.5), reference(before, 1.5)
        factor = 0.5 + float(((after - low) * (high - low)).sum() / (high - low).square().sum())
        torch.testing.assert_close(after, reference(before, factor), rtol=0, atol=1e-3)
        factors.append(factor)
    assert 0.7 <= min(factors) < 0.78
    assert 1.22 < max(factors) <= 1.3


def test_hue_turns_the_colours_and_leaves_the_light() -> None:
    red = torch.tensor([0.6, 0.3, 0.3])[:, None, None].expand(64, 3, 8, 8)
    color = ColorAugmentation(**(NO_CHANGE | {"hue": 0.5}), probability=1)  # type: ignore[arg-type]
    result = augmented(color, red)
    luma = torch.tensor([0.299, 0.587, 0.114])
    torch.testing.assert_close(
        torch.einsum("nchw,c->nhw", result, luma), torch.einsum("nchw,c->nhw", red, luma)
    )
    strongest = result.mean((2, 3)).argmax(1)
    assert set(strongest.tolist()) == {0, 1, 2}


def test_some_photos_lose_their_colour() -> None:
    result = augmented(ColorAugmentation(grayscale=0.5), photos(64))
    spread = (result.amax(1) - result.amin(1)).amax((1, 2))
    assert 0.3 < float((spread < 0.01).float().mean()) < 0.7


def box_of(images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Left, right, top and bottom [N] of what is brighter than half."""
    bright = images.mean(1) > 0.5
    across, down = bright.any(1).int(), bright.any(2).int()
    size = images.shape[-1]
    return (
        across.argmax(1), size - across.flip(1).argmax(1),
        down.argmax(1), size - down.flip(1).argmax(1),
    )  # fmt: skip


def white_car() -> Tensor:
    """64 white cars on black, [64, 3, 96, 96]; half as wide and high as the photo."""
    images = torch.zeros(64, 3, 96, 96, dtype=torch.uint8)
    images[..., 24:72, 24:72] = 255
    return images


def test_framing_makes_the_car_smaller_and_moves_it_about() -> None:
    framing = FramingAugmentation(1, scale=(0.5, 0.5), aspect=1, cut=0, clutter=0)
    left, right, top, bottom = box_of(augmented(framing, white_car()))
    assert set((right - left).tolist()) <= {23, 24, 25}
    assert set((bottom - top).tolist()) <= {23, 24, 25}
    # The photo is 48 pixels wide somewhere in 96, and the car 12 pixels within it.
    for low, high in ((left, right), (top, bottom)):
        assert 11 <= low.min() < 18
        assert 78 < high.max() <= 85


def test_framing_changes_the_aspect_ratio_within_its_limit() -> None:
    framing = FramingAugmentation(1, scale=(0.6, 0.6), aspect=1.5, cut=0, clutter=0)
    left, right, top, bottom = box_of(augmented(framing, white_car()))
    ratios = (right - left) / (bottom - top)
    assert 0.6 < ratios.min() < 0.75
    assert 1.33 < ratios.max() < 1.65


def test_framing_cuts_off_no_more_than_it_may() -> None:
    images = torch.zeros(64, 3, 96, 96, dtype=torch.uint8)
    images[..., :48] = 255
    framing = FramingAugmentation(1, scale=(1, 1), aspect=1, cut=0.3, clutter=0)
    _, middle, _, _ = box_of(augmented(framing, images))
    # 0.3 of the photo are 29 pixels, either way.
    assert 48 - 30 <= middle.min() < 48 - 20
    assert 48 + 20 < middle.max() <= 48 + 30


@pytest.mark.parametrize(("clutter", "foreign"), [(0.0, False), (1.0, True)])
def test_the_canvas_goes_on_in_the_photos_colours_or_shows_another_photo(
    clutter: float, foreign: bool
) -> None:
    images = torch.zeros(16, 3, 48, 48, dtype=torch.uint8)
    images[::2, 0] = 255  # red photos
    images[1::2, 2] = 255  # blue photos
    framing = FramingAugmentation(1, scale=(0.5, 0.6), aspect=1, cut=0, clutter=clutter)
    red = augmented(framing, images)[::2]
    blue_pixels = ((red[:, 2] > 0.9) & (red[:, 0] < 0.1)).float().mean((1, 2))
    assert bool((blue_pixels > 0.3).any()) is foreign
    assert (red[:, 0] > 0.9).float().mean((1, 2)).min() > 0.15  # the photo itself is there


NO_LOSS = {"resolution": 1.0, "blur": 0.0, "noise": 0.0, "jpeg": 95}


def detail(images: Tensor) -> Tensor:
    """Mean difference of neighbouring pixels, [N]."""
    return images.diff(dim=-1).abs().mean((1, 2, 3))


@pytest.mark.parametrize("setting", [{"resolution": 0.2}, {"blur": 0.05}])
def test_few_pixels_and_blur_take_detail(setting: dict[str, float]) -> None:
    images = torch.rand(32, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    kept = detail(augmented(QualityAugmentation(1, **NO_LOSS), images))  # type: ignore[arg-type]
    worse = QualityAugmentation(1, **(NO_LOSS | setting))  # type: ignore[arg-type]
    left = detail(augmented(worse, images)) / kept
    assert left.min() < 0.35
    assert left.max() > 1.2 * left.min()  # some more, some less


def test_sensor_noise_is_stronger_on_some_photos() -> None:
    grey = torch.full((32, 3, 64, 64), 0.5)
    kept = augmented(QualityAugmentation(1, **NO_LOSS), grey)  # type: ignore[arg-type]
    torch.testing.assert_close(kept, grey, rtol=0, atol=0.01)
    noisy = QualityAugmentation(1, **(NO_LOSS | {"noise": 0.1}))  # type: ignore[arg-type]
    deviation = augmented(noisy, grey).std((1, 2, 3))
    assert deviation.min() < 0.03
    assert 0.06 < deviation.max() < 0.11


def test_compression_loses_more_at_a_lower_quality() -> None:
    images = photos(32, 64, 64) / 255
    lost = {
        quality: (
            augmented(QualityAugmentation(1, **(NO_LOSS | {"jpeg": quality})), images) - images  # type: ignore[arg-type]
        ).abs().mean((1, 2, 3))
        for quality in (95, 5)
    }  # fmt: skip
    assert lost[95].max() < 0.02
    assert lost[5].max() > 3 * lost[95].max()


def test_erasing_hides_a_rectangle_of_noise_of_the_asked_size() -> None:
    images = torch.zeros(64, 3, 48, 48, dtype=torch.uint8)
    result = augmented(ErasingAugmentation(1, area=(0.1, 0.2)), images)
    hidden = (result > 0).any(1).float().mean((1, 2))
    assert hidden.min() > 0.08
    assert hidden.max() < 0.22
    values = result[result > 0]
    assert abs(float(values.mean()) - 0.5) < 0.01  # uniform noise, each pixel its own
    assert abs(float(values.std()) - 12**-0.5) < 0.01


def test_a_policy_draws_an_operation_for_every_photo() -> None:
    images = photos(1, 48, 48).repeat(280, 1, 1, 1)
    result = augmented(TrivialAugmentation(wide=False), images)
    different = {tuple(image.flatten()[::97].tolist()) for image in result}
    assert len(different) > 140
    # One of 14 operations is the identity, and some do nothing at a low strength.
    unchanged = (result == images / 255).flatten(1).all(1).float().mean()
    assert 0.04 < unchanged < 0.3


def test_randaugment_gets_stronger_with_its_magnitude_and_its_operations() -> None:
    images = photos(128)

    def change(operations: int, magnitude: int) -> float:
        result = augmented(RandAugmentation(operations, magnitude), images)
        return float((result - images / 255).abs().mean())

    assert change(1, 3) < change(1, 15) < change(1, 30)
    assert change(1, 9) < change(3, 9)


def test_operations_go_either_way() -> None:
    grey = torch.full((200, 3, 16, 16), 0.3)
    results = augmented(RandAugmentation(1, magnitude=30), grey).mean((1, 2, 3))
    for factor in (0.1, 1.9):  # darker, brighter
        assert ((results - 0.3 * factor).abs() < 0.001).any()


@pytest.mark.parametrize("axis", [-1, -2])
def test_a_translation_moves_the_photo_by_its_part_of_the_side(axis: int) -> None:
    photo = photos(1, 96, 96)
    results = augmented(RandAugmentation(1, magnitude=30), photo.repeat(200, 1, 1, 1))
    shift = round(96 * 150 / 331)
    kept, gone = photo.narrow(axis, 0, 96 - shift) / 255, results.narrow(axis, shift, 96 - shift)
    assert ((gone - kept).abs().mean((1, 2, 3)) < 0.03).any()  # one way
    kept, gone = photo.narrow(axis, shift, 96 - shift) / 255, results.narrow(axis, 0, 96 - shift)
    assert ((gone - kept).abs().mean((1, 2, 3)) < 0.03).any()  # the other


@pytest.mark.parametrize("strength", [-0.9, -0.4, 0.0, 0.4, 0.9])
@pytest.mark.parametrize(
    ("operation", "reference"),
    [
        ("brightness", lambda x, s: tv.adjust_brightness(x, 1 + s)),
        ("contrast", lambda x, s: tv.adjust_contrast(x, 1 + s)),
        ("color", lambda x, s: tv.adjust_saturation(x, 1 + s)),
        ("sharpness", lambda x, s: tv.adjust_sharpness(x, 1 + s)),
        ("solarize", lambda x, s: tv.solarize(x, 1 - abs(s))),
        ("posterize", lambda x, s: tv.posterize(x, 8 - round(abs(4 * s)))),
        ("auto_contrast", lambda x, s: tv.autocontrast(x)),
        ("equalize", lambda x, s: tv.equalize(x)),
    ],
)
def test_operations_are_those_of_the_papers(
    operation: str, reference: Callable[[Tensor, float], Tensor], strength: float
) -> None:
    images = photos(4) / 255
    scale = 4 if operation == "posterize" else 1
    result = _COLOR[operation](images, torch.full((4,), scale * strength)).clamp(0, 1)
    # posterize and equalize count in 8 bits.
    torch.testing.assert_close(result, reference(images, strength), rtol=0, atol=1.5 / 255)
