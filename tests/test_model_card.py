"""The model card says what is so, whatever the data set brings."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from typing import Any

import pytest
from container_fixtures import BUNDLED
from factories import TINY_MANIFEST

from handler.manifest import ModelManifest
from lightning_train.model_card import few_identified, model_card


def manifest(photos: int, identified: int, data: str = "your own") -> ModelManifest:
    """Of an archive that answers so many of its validation photos `identified`."""
    figures: dict[str, Any] = {"photos": float(photos), "top1": 0.9}
    shares = {"identified": identified / photos, "auroc_wrong": 0.8}
    return replace(
        TINY_MANIFEST,
        metrics={
            "validation": {"float": figures, "int8": figures, "as answered": figures},
            "int8_float_agreement": 0.99,
            "int8_minus_float_top1": 0.0,
            "known_scores": {"energy": {"identified": 1.0}, "max_probability": shares},
            "honesty": {"identified": identified / photos},
            "cross_fitted": {},
            "outside": {},
        },
        provenance={
            "data": data, "classes": 4, "training_photos": 36, "validation_photos": photos,
            "checkpoint_sha256": "0", "built": "today",
        },
    )  # fmt: skip


def card(of: ModelManifest) -> str:
    return model_card(of, precision=0.95, keep_cars=0.995, recipe=None)


@pytest.mark.parametrize("data", ["your own", "Stanford Cars 196"])
def test_where_the_validation_photos_are_from_is_true_of_a_val_of_one_s_own_too(data: str) -> None:
    said = " ".join(card(manifest(40, 35, data)).split())
    assert "those that the data set brings as `val`, or else a stratified tenth" in said
    assert "No weight was fitted to them" in said


def test_a_threshold_that_rests_on_few_photos_is_called_a_guess() -> None:
    for photos, identified in [(12, 7), (400, 29), (12, 0)]:
        of = manifest(photos, identified)
        said = few_identified(of, 0.95)
        assert said is not None
        assert f"Only {identified} of {photos} validation photos are answered" in said
        assert "that 95 % of such answers are right is then little more than a guess" in said
        assert "Give more validation photos" in said
        assert f"\n\n**{said}**\n\n" in card(of)
    assert few_identified(manifest(400, 30), 0.95) is None
    assert "guess" not in card(manifest(400, 30))


def test_the_bundled_archive_s_threshold_rests_on_enough_photos() -> None:
    with zipfile.ZipFile(BUNDLED) as content:
        bundled = ModelManifest.from_dict(json.loads(content.read("model.json")))
    assert few_identified(bundled, 0.95) is None
