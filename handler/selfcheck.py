"""The check before the first photo: does the engine compute what it computed when it was built?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from handler.archive import read_arrays
from handler.engine import Engine
from handler.errors import ArchiveError
from handler.manifest import ModelManifest

__all__ = ["check_engine"]


def check_engine(
    path: Path,
    engine: Engine,
    manifest: ModelManifest,
    classes: int,
    weights: Mapping[str, tuple[int, ...] | None],
) -> None:
    """Compare the network's logits on stored images with those stored when it was built.

    Args:
        path: of the stored `images` uint8 [N, S, S, 3] and `logits` [N, C].
        engine: that will serve.
        manifest: says how far the logits may lie apart.
        classes: rows of the label table.
        weights: name of another part of the archive → shape of its weights, by feature or by class
            and feature; None if the archive has no such part.

    Raises:
        ArchiveError: it computes something else, or parts of the archive don't fit together.
    """
    images, expected = read_arrays(path, "images", "logits")
    try:
        output = engine.run(images)
    except RuntimeError as error:
        raise ArchiveError(f"the self-check can't run: {error}") from error
    if output.logits.shape[-1] != classes:
        raise ArchiveError(
            f"the network knows {output.logits.shape[-1]} classes and labels.csv {classes}: "
            "build the archive again"
        )
    if output.logits.shape != expected.shape:
        raise ArchiveError(
            f"the self-check expects logits of shape {expected.shape}, "
            f"the network gives {output.logits.shape}: build the archive again"
        )
    features = output.features.shape[-1]
    for name, shape in weights.items():
        if shape not in (None, (features,), (classes, features)):
            raise ArchiveError(f"{name} fits another network: build the archive again")
    deviation = float(np.abs(output.logits - expected).max())
    # Written so that NaN fails too.
    if not deviation <= manifest.selfcheck_atol:
        raise ArchiveError(
            f"self-check failed: logits differ by up to {deviation:.3g} from those stored "
            f"(allowed: {manifest.selfcheck_atol:g}). The archive is damaged, or this machine's "
            "engine computes differently: fetch or build the archive again"
        )
