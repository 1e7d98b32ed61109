"""torch as the engine: bfloat16 on CUDA. Imported only where an archive asks for it."""

from __future__ import annotations

import threading
import zipfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handler.engine import EngineOutput
from handler.errors import ArchiveError

__all__ = ["TorchEngine"]


class TorchEngine:
    """A `torch.export` program on one device.

    bfloat16 on CUDA: tensor cores need 16-bit numbers, and bfloat16 has the range of float32, so
    that no activation overflows. float32 on the CPU, where OpenVINO is the faster choice.

    `torch.export.load` unpickles and evaluates parts of the file, so an archive with this engine
    can run code on loading: trust it as you trust the Python code that every .mar brings along.

    Attributes:
        device: where the network runs.
        precision: what it computes in: `bfloat16`, `float16` or `float32`.
    """

    device: torch.device
    precision: str

    def __init__(
        self, program: str | Path, threads: int | None = None, device: str | None = None
    ) -> None:
        """Load a program and put it on a device.

        Args:
            program: path of the .pt2. What it stores as float16 is converted to the device's
                precision; what it stores as float32 stays so.
            threads: how many CPU threads torch uses, in the whole process; None leaves it as it is.
            device: `cpu`, `cuda` or `cuda:N`; None or `auto` for CUDA where there is some.

        Raises:
            ArchiveError: the device is not there, or the program can't be loaded.
        """
        self.device = _find_device(device)
        dtype = _fast_dtype(self.device)
        self.precision = str(dtype).removeprefix("torch.")
        if threads is not None:
            torch.set_num_threads(threads)
        program = Path(program)
        _check_intact(program)
        try:
            self._network = torch.export.load(program).module()
            for tensor in (*self._network.parameters(), *self._network.buffers()):
                half = tensor.dtype == torch.float16
                tensor.data = tensor.data.to(self.device, dtype if half else tensor.dtype)
            self._network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        # Whatever a file holds instead of a program, the line that trips over it raises its own.
        except Exception as error:
            reason = (str(error).splitlines() or [""])[0]
            raise ArchiveError(
                f"torch can't load {program.name} on {self.device}: "
                f"{type(error).__name__}: {reason}"
            ) from error
        self._lock = threading.Lock()

    def run(self, images: NDArray[np.uint8]) -> EngineOutput:
        """Run a batch; see `Engine.run`.

        A batch too big for the GPU's memory is run in halves.

        Raises:
            torch.OutOfMemoryError: not even one photo fits.
        """
        with self._lock, torch.inference_mode():
            return self._run(images)

    def _run(self, images: NDArray[np.uint8]) -> EngineOutput:
        try:
            return self._infer(images)
        except torch.OutOfMemoryError:
            if len(images) == 1:
                raise
        # Only here, after the exception is gone: its traceback holds the failed batch's memory.
        torch.cuda.empty_cache()
        half = len(images) // 2
        parts = [self._run(images[:half]), self._run(images[half:])]
        return EngineOutput(
            np.concatenate([part.logits for part in parts]),
            np.concatenate([part.feature_map for part in parts]),
        )

    def _infer(self, images: NDArray[np.uint8]) -> EngineOutput:
        pixels = torch.from_numpy(images)
        if self.device.type == "cuda":
            # The GPU fetches it from pinned memory by itself, while Python launches the kernels.
            pixels = pixels.pin_memory().to(self.device, non_blocking=True)
        logits, feature_map = self._network(pixels)
        return EngineOutput(_to_numpy(logits), _to_numpy(feature_map))


def _to_numpy(tensor: Tensor) -> NDArray[np.float32]:
    """A float32 array in C order; the device does the converting."""
    array: NDArray[np.float32] = tensor.float().contiguous().cpu().numpy()
    return array


def _check_intact(path: Path) -> None:
    """torch compares no checksums, and prints a traceback of its own before it raises."""
    try:
        with zipfile.ZipFile(path) as parts:
            broken = parts.testzip()
    except (OSError, EOFError, NotImplementedError, zipfile.BadZipFile) as error:
        raise ArchiveError(f"can't read {path.name}: {error}") from error
    if broken:
        raise ArchiveError(f"{path.name} is damaged ({broken}): fetch or build the archive again")


def _find_device(wanted: str | None) -> torch.device:
    if wanted in (None, "auto"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise ArchiveError(f"no device {wanted!r}: choose auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise ArchiveError(f"device {wanted!r} is not supported: choose auto, cpu, cuda or cuda:N")
    found = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= found:
        raise ArchiveError(
            f"there is no device {wanted}: torch {torch.__version__} finds {found} CUDA devices "
            "here. Choose auto or cpu, or install torch's CUDA build and the driver"
        )
    return device


def _fast_dtype(device: torch.device) -> torch.dtype:
    """The narrowest precision that the device computes in natively."""
    if device.type == "cpu":
        return torch.float32
    # GPUs before Ampere, the T4 among them, only emulate bfloat16.
    ampere = torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.bfloat16 if ampere else torch.float16
