"""What the peers share: from a photo's bytes to pixels, and from pixels to classes.

Their settings come in the environment: BENCH_ARCHIVE (an unpacked archive), BENCH_WEIGHTS (the
float network's state) and BENCH_CHANNELS_LAST (1 or 0).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.serving.machine import cores
from handler.decode import decode_photo
from handler.engine import load_engine
from handler.manifest import ModelManifest
from lightning_train.networks import build_network

__all__ = ["EagerNetwork", "Int8Network"]

Pixels = NDArray[np.uint8]


class _Network:
    """Decoding and the shape of the answers."""

    def __init__(self) -> None:
        self.directory = Path(os.environ["BENCH_ARCHIVE"])
        self.manifest = ModelManifest.read(self.directory / "model.json")

    def decode(self, photo: bytes) -> Pixels:
        """Network input [S, S, 3] of a photo's file."""
        preprocessing = self.manifest.preprocessing
        return preprocessing(decode_photo(photo, min_side=preprocessing.size).image)

    def _answers(self, probabilities: torch.Tensor) -> list[dict[str, Any]]:
        confidences, classes = probabilities.topk(5)
        return [
            {"class_ids": ids, "confidences": values}
            for ids, values in zip(classes.tolist(), confidences.tolist(), strict=True)
        ]


class EagerNetwork(_Network):
    """The float network in eager torch, on all cores."""

    def __init__(self) -> None:
        super().__init__()
        torch.set_num_threads(cores())
        state = torch.load(os.environ["BENCH_WEIGHTS"], weights_only=True)
        network = build_network(self.manifest.network, len(state["head.bias"]))
        network.load_state_dict(state)
        self._format = (
            torch.channels_last
            if os.environ["BENCH_CHANNELS_LAST"] == "1"
            else torch.contiguous_format
        )
        self._network = network.eval().to(memory_format=self._format)  # type: ignore[call-overload]
        preprocessing = self.manifest.preprocessing
        self._mean = 255 * torch.tensor(preprocessing.mean).view(3, 1, 1)
        self._std = 255 * torch.tensor(preprocessing.std).view(3, 1, 1)

    @torch.inference_mode()
    def identify(self, photos: Sequence[Pixels]) -> list[dict[str, Any]]:
        """One answer per photo of a batch."""
        images = torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2).float()
        images = ((images - self._mean) / self._std).contiguous(memory_format=self._format)
        return self._answers(self._network(images).softmax(dim=1))


class Int8Network(_Network):
    """The archive's own engine."""

    def __init__(self) -> None:
        super().__init__()
        self._engine = load_engine(self.manifest.engine, self.directory)

    def identify(self, photos: Sequence[Pixels]) -> list[dict[str, Any]]:
        """One answer per photo of a batch."""
        logits = torch.from_numpy(self._engine.run(np.stack(photos)).logits)
        return self._answers(logits.softmax(dim=1))
