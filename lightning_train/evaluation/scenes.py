"""How well an archive reads whole scenes: photos on which the car fills a part only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.progress import track

from handler.examiner import Look
from handler.identifier import CarIdentifier
from handler.region import Box
from lightning_train.data import Sample
from lightning_train.evaluation.evaluate import examine_images
from lightning_train.scenes import Scene, compose_scene

__all__ = ["SCALES", "score_scenes"]

# Width of the car over width of the scene.
SCALES = (1.0, 0.7, 0.5, 0.35, 0.25)
_BATCH = 8


def score_scenes(
    identifier: CarIdentifier,
    samples: Sequence[Sample],
    backgrounds: Sequence[Path],
    count: int = 200,
) -> dict[str, dict[str, float]]:
    """Compose scenes of the same cars at several scales, and have them answered.

    Args:
        identifier: of the archive.
        samples: labelled photos, their class ids those of the archive.
        backgrounds: photos of anything else, that nothing was fitted to.
        count: scenes of a scale, at most one of each photo.

    Returns:
        Scale → `whole_top1` (the whole photo looked at once), `top1` (as the worker answers),
        `identified`, `identified_right`, `looks` (how often the engine ran for a photo), and
        `pointing`, the share of heatmaps whose peak lies on the car (the pointing game of Zhang et
        al. 2018, arXiv 1608.00507).
    """
    generator = np.random.default_rng(0)
    chosen = generator.permutation(len(samples))[:count]
    figures = {}
    for scale in SCALES:
        name = f"car fills {scale:.0%} of the width"
        right_at_once: list[bool] = []
        right: list[bool] = []
        identified: list[bool] = []
        counts: list[int] = []
        on_car: list[bool] = []
        for first in track(range(0, len(chosen), _BATCH), name):
            scenes = [
                compose_scene(
                    samples[int(index)],
                    backgrounds,
                    scale,
                    generator,
                    input_side=identifier.manifest.preprocessing.size,
                )
                for index in chosen[first : first + _BATCH]
            ]
            images = [scene.image for scene in scenes]
            whole = examine_images(identifier, images, closer=False)
            best = examine_images(identifier, images)
            right_at_once += map(_is_right, scenes, whole)
            right += map(_is_right, scenes, best)
            identified += [look.verdict == "identified" for look in best]
            counts += [look.count for look in best]
            on_car += [
                _holds(scene.box, *identifier.heatmap(look).peak)
                for scene, look in zip(scenes, best, strict=True)
            ]
        right_identified = np.array(right)[np.array(identified)]
        figures[name] = {
            "photos": float(len(right)),
            "whole_top1": float(np.mean(right_at_once)),
            "top1": float(np.mean(right)),
            "identified": float(np.mean(identified)),
            "identified_right": float(right_identified.mean()) if any(identified) else 0.0,
            "looks": float(np.mean(counts)),
            "pointing": float(np.mean(on_car)),
        }
    return figures


def _holds(box: Box, x: float, y: float) -> bool:
    return box.left <= x < box.right and box.top <= y < box.bottom


def _is_right(scene: Scene, look: Look) -> bool:
    return int(look.logits.argmax()) == scene.class_id
