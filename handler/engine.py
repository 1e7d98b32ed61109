"""Engines: what runs the network on a batch of preprocessed photos."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
import openvino
from numpy.typing import NDArray

from handler.errors import ArchiveError

__all__ = ["Engine", "EngineOutput", "OpenVinoEngine", "load_engine"]


@dataclass(frozen=True, slots=True)
class EngineOutput:
    """What the network says about a batch of N photos.

    Attributes:
        logits: float32 [N, C], one raw score per class.
        feature_map: float32 [N, F, h, w], the last features before they are averaged over the
            picture: what a class-activation map is made of.
    """

    logits: NDArray[np.float32]
    feature_map: NDArray[np.float32]

    @property
    def features(self) -> NDArray[np.float32]:
        """The feature map averaged over the picture, float32 [N, F]."""
        mean: NDArray[np.float32] = self.feature_map.mean(axis=(2, 3))
        return mean


class Engine(Protocol):
    """Runs the network; safe to call from several threads."""

    def run(self, images: NDArray[np.uint8]) -> EngineOutput:
        """Run a batch.

        Args:
            images: uint8 [N, S, S, 3], RGB, N ≥ 1, as `Preprocessing` makes them.
        """
        ...


@cache
def _core() -> openvino.Core:
    """The only one of this process, and never dropped.

    Each installs an alternate signal stack; two that are not dropped in the reverse order of their
    making leave an unmapped one behind, and the next signal is a SIGSEGV.
    """
    return openvino.Core()


class OpenVinoEngine:
    """OpenVINO on the CPU.

    One stream that uses all threads (the LATENCY hint): the worker hands over one batch at a time,
    and a batch spreads over the cores by itself. Several streams (THROUGHPUT) pay off only where
    batches are in flight side by side, and would make a lone photo run on a part of the cores.
    """

    def __init__(self, model: str | Path, threads: int | None = None) -> None:
        """Load and compile an OpenVINO model.

        Args:
            model: path of the .xml, with its .bin beside it.
            threads: how many CPU threads to use; None lets OpenVINO take the cores it finds.

        Raises:
            ArchiveError: there is no such model, or it hasn't the outputs that are needed.
        """
        options = {"PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = str(threads)
        try:
            compiled = _core().compile_model(str(model), "CPU", options)
            self._logits = compiled.output("logits")
            self._feature_map = compiled.output("feature_map")
        except RuntimeError as error:
            raise ArchiveError(f"OpenVINO can't load {Path(model).name}: {error}") from error
        self._request = compiled.create_infer_request()
        self._lock = threading.Lock()

    def run(self, images: NDArray[np.uint8]) -> EngineOutput:
        """Run a batch; see `Engine.run`."""
        with self._lock:
            # The results are copies: the next run overwrites the request's own buffers.
            results = self._request.infer([images], share_inputs=True)
        return EngineOutput(results[self._logits], results[self._feature_map])


def load_engine(
    name: str, directory: Path, threads: int | None = None, device: str | None = None
) -> Engine:
    """Load the engine that an archive names.

    Args:
        name: the manifest's `engine`.
        directory: the unpacked archive.
        threads: how many CPU threads to use; None for the engine's own choice.
        device: `cpu`, `cuda` or `cuda:N`; None or `auto` for the best that the engine can use here.

    Raises:
        ArchiveError: the engine is unknown here, the device is none of its, or the model can't be
            loaded.
    """
    if name == "openvino":
        if device not in (None, "auto", "cpu"):
            raise ArchiveError(
                f"this archive's engine runs on the CPU, not on {device}: for a GPU, build one "
                "with make archive ENGINE=torch"
            )
        return OpenVinoEngine(directory / "model.xml", threads)
    if name == "torch":
        # Seconds to import, and not installed everywhere: so only where it is used.
        from handler.torch_engine import TorchEngine

        return TorchEngine(directory / "model.pt2", threads, device)
    raise ArchiveError(f"model.json asks for engine {name!r}; this handler has: openvino, torch")
