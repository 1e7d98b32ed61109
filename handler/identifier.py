"""Photos in, answers out: decode → preprocess → engine → labels → answer."""

from __future__ import annotations

import re
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from handler.answer import Answer, build_answer
from handler.car_detector import CarDetector
from handler.decode import decode_photo
from handler.engine import Engine, EngineOutput, load_engine
from handler.errors import ArchiveError, InvalidOptionError, PhotoError
from handler.labels import CarLabel, read_labels
from handler.manifest import ModelManifest

__all__ = ["CarIdentifier", "Options"]

_MAX_TOP_K = 20
_REQUEST_ID = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Options:
    """What may be asked of one photo.

    Attributes:
        top_k: how many predictions the answer holds, 1 to 20.
        request_id: comes back in the answer.

    Raises:
        InvalidOptionError: a value is out of its range.
    """

    top_k: int = 5
    request_id: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= _MAX_TOP_K:
            raise InvalidOptionError(f"top_k must be 1 to {_MAX_TOP_K}, not {self.top_k}.")
        if self.request_id is not None and not _REQUEST_ID.fullmatch(self.request_id):
            raise InvalidOptionError(
                "request_id must be 1 to 128 letters, digits or any of . _ : / + = -"
            )

    @classmethod
    def parse(cls, *, top_k: str | None = None, request_id: str | None = None) -> Options:
        """Read options from text, as they come over HTTP; None means the default.

        Raises:
            InvalidOptionError: a value is no number or out of its range.
        """
        if top_k is None:
            return cls(request_id=request_id)
        if not re.fullmatch(r"[0-9]{1,9}", top_k.strip(), re.ASCII):
            raise InvalidOptionError(f"top_k must be a whole number from 1 to {_MAX_TOP_K}.")
        return cls(int(top_k), request_id)


class CarIdentifier:
    """The whole way from photos to answers, for one model."""

    def __init__(
        self,
        engine: Engine,
        labels: Sequence[CarLabel],
        manifest: ModelManifest,
        detector: CarDetector | None = None,
    ) -> None:
        self.labels = tuple(labels)
        self.manifest = manifest
        self._engine = engine
        self._detector = detector

    @classmethod
    def from_directory(cls, directory: str | Path, threads: int | None = None) -> CarIdentifier:
        """Load an unpacked archive and check that it computes what it computed when it was built.

        Args:
            directory: where `model.json` and its companions lie.
            threads: how many CPU threads the engine uses; None for the engine's own choice.

        Raises:
            ArchiveError: a part is missing or broken, or the self-check failed.
        """
        directory = Path(directory)
        manifest = ModelManifest.read(directory / "model.json")
        try:
            labels = read_labels(directory / "labels.csv")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArchiveError(f"can't read labels.csv: {error}") from error
        engine = load_engine(manifest.engine, directory, threads)
        # Built only where there were photos of other things to learn from.
        path = directory / "car_detector.npz"
        detector = CarDetector.read(path) if path.exists() else None
        identifier = cls(engine, labels, manifest, detector)
        identifier._check_self(directory / "selfcheck.npz")
        return identifier

    def identify(
        self,
        photos: Sequence[bytes | bytearray],
        options: Sequence[Options] | None = None,
    ) -> list[Answer | PhotoError]:
        """Identify the cars on photos, as one batch.

        Args:
            photos: files as they were sent.
            options: one per photo; None for the defaults.

        Returns:
            One answer or error per photo, in order: a bad photo changes nothing for the others.
            The answers' timing is in milliseconds: `decode` up to the network's input, of this
            photo; `inference` of the whole batch it was in.
        """
        if options is None:
            options = [Options()] * len(photos)
        inputs = [self._prepare(photo) for photo in photos]
        good = [item for item in inputs if isinstance(item, _Input)]
        if not good:
            return [item for item in inputs if isinstance(item, PhotoError)]
        start = time.perf_counter()
        output = self._engine.run(np.stack([item.pixels for item in good]))
        inference_ms = _milliseconds_since(start)
        outcomes = zip(output.logits, self.car_scores(output).tolist(), strict=True)
        return [
            item
            if isinstance(item, PhotoError)
            else self._answer(*next(outcomes), asked, item, inference_ms)
            for item, asked in zip(inputs, options, strict=True)
        ]

    def run_images(self, images: Sequence[Image.Image]) -> EngineOutput:
        """Run the network on RGB images, as one batch of at least one."""
        return self._engine.run(np.stack([self.manifest.preprocessing(image) for image in images]))

    def car_scores(self, output: EngineOutput) -> NDArray[np.float32]:
        """How much each photo of a batch looks like a car at all, [N]; from 0 on it is one.

        Infinite without a detector: such an archive takes everything for a car.
        """
        if self._detector is None:
            return np.full(len(output.logits), np.inf, dtype=np.float32)
        return self._detector.scores(output.features)

    def _answer(
        self,
        logits: NDArray[np.float32],
        car_score: float,
        asked: Options,
        item: _Input,
        inference_ms: float,
    ) -> Answer:
        return build_answer(
            logits,
            self.labels,
            self.manifest,
            is_car=car_score >= 0,
            top_k=asked.top_k,
            request_id=asked.request_id,
            warnings=item.warnings,
            timing_ms={"decode": item.decode_ms, "inference": inference_ms},
        )

    def _prepare(self, photo: bytes | bytearray) -> _Input | PhotoError:
        start = time.perf_counter()
        preprocessing = self.manifest.preprocessing
        try:
            decoded = decode_photo(photo, min_side=preprocessing.size)
        except PhotoError as error:
            return error
        pixels = preprocessing(decoded.image)
        return _Input(pixels, decoded.warnings, _milliseconds_since(start))

    def _check_self(self, path: Path) -> None:
        """Compare the network's logits on stored images with those stored when it was built."""
        try:
            with np.load(path) as stored:
                images, expected = stored["images"], stored["logits"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ArchiveError(f"can't read selfcheck.npz: {error}") from error
        try:
            output = self._engine.run(images)
        except RuntimeError as error:
            raise ArchiveError(f"the self-check can't run: {error}") from error
        classes = output.logits.shape[-1]
        if classes != len(self.labels):
            raise ArchiveError(
                f"the network knows {classes} classes and labels.csv {len(self.labels)}: "
                "build the archive again"
            )
        if output.logits.shape != expected.shape:
            raise ArchiveError(
                f"the self-check expects logits of shape {expected.shape}, "
                f"the network gives {output.logits.shape}: build the archive again"
            )
        if self._detector and self._detector.weights.shape != output.features.shape[1:]:
            raise ArchiveError("car_detector.npz fits another network: build the archive again")
        deviation = float(np.abs(output.logits - expected).max())
        # Written so that NaN fails too.
        if not deviation <= self.manifest.selfcheck_atol:
            raise ArchiveError(
                f"self-check failed: logits differ by up to {deviation:.3g} from those stored "
                f"(allowed: {self.manifest.selfcheck_atol:g}). The archive is damaged, or this "
                "machine's engine computes differently: fetch or build the archive again"
            )


@dataclass(frozen=True, slots=True)
class _Input:
    """A photo ready for the network."""

    pixels: NDArray[np.uint8]
    warnings: tuple[str, ...]
    decode_ms: float


def _milliseconds_since(start: float) -> float:
    return (time.perf_counter() - start) * 1000
