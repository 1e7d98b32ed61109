"""Photos in, answers out: decode → preprocess → engine, closer where need be → labels → answer."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handler.answer import Answer, Region, build_answer
from handler.archive import read_arrays
from handler.car_detector import CarDetector
from handler.engine import load_engine
from handler.errors import ArchiveError, PhotoError
from handler.examiner import Examiner, Look
from handler.heatmap import Heatmap, class_map
from handler.labels import CarLabel, read_labels
from handler.locator import CarLocator
from handler.manifest import ModelManifest
from handler.options import Options
from handler.reader import PATIENCE_S, PhotoReader, View
from handler.region import Box
from handler.selfcheck import check_engine

__all__ = ["CarIdentifier"]


class CarIdentifier:
    """The whole way from photos to answers, for one model."""

    def __init__(
        self,
        examiner: Examiner,
        labels: Sequence[CarLabel],
        manifest: ModelManifest,
        classifier: NDArray[np.floating[Any]],
        threads: int | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            examiner: looks at photos.
            labels: the network's C classes.
            manifest: preprocessing and calibration.
            classifier: [C, F], the weights of the network's last layer, for heatmaps.
            threads: photos decoded at a time; None for as many as there are cores.
        """
        self.labels = tuple(labels)
        self.manifest = manifest
        self.examiner = examiner
        self._classifier = classifier
        self._reader = PhotoReader(manifest.preprocessing, threads)

    @classmethod
    def from_directory(
        cls, directory: str | Path, threads: int | None = None, device: str | None = None
    ) -> CarIdentifier:
        """Load an unpacked archive and check that it computes what it computed when it was built.

        Args:
            directory: where `model.json` and its companions lie.
            threads: how many CPU threads the engine and decoding use; None for their own choice.
            device: where the engine runs, see `load_engine`.

        Raises:
            ArchiveError: a part is missing or broken, or the self-check failed.
        """
        directory = Path(directory)
        manifest = ModelManifest.read(directory / "model.json")
        try:
            labels = read_labels(directory / "labels.csv")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArchiveError(f"can't read labels.csv: {error}") from error
        engine = load_engine(manifest.engine, directory, threads, device)
        # Built only where there were photos of other things to learn from.
        paths = directory / "car_detector.npz", directory / "car_locator.npz"
        detector = CarDetector.read(paths[0]) if paths[0].exists() else None
        locator = CarLocator.read(paths[1]) if paths[1].exists() else None
        (classifier,) = read_arrays(directory / "classifier.npz", "weights")
        weights = {
            "classifier.npz": classifier.shape,
            "car_detector.npz": detector.weights.shape if detector else None,
            "car_locator.npz": locator.weights.shape if locator else None,
        }
        check_engine(directory / "selfcheck.npz", engine, manifest, len(labels), weights)
        examiner = Examiner(engine, manifest.known, detector, locator)
        return cls(examiner, labels, manifest, classifier, threads)

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
            photo; `inference` of the batches it was in.
        """
        if options is None:
            options = [Options()] * len(photos)
        # For closer looks too: a photo that was read once is answered from what was seen then.
        deadline = time.monotonic() + PATIENCE_S
        boxes = [asked.box for asked in options]
        read = self._reader.read(list(zip(photos, boxes, strict=True)), deadline=deadline)
        # The photos that can be looked at, and which of all they are.
        views = [view for view in read if isinstance(view, View)]
        places = [place for place, view in enumerate(read) if isinstance(view, View)]

        def reread(wanted: Mapping[int, Box]) -> dict[int, View]:
            jobs = [(photos[places[index]], box) for index, box in wanted.items()]
            again = self._reader.read(jobs, deadline=deadline, found=True)
            pairs = zip(wanted, again, strict=True)
            return {index: view for index, view in pairs if isinstance(view, View)}

        looks = dict(zip(places, self.examiner.examine(views, reread), strict=True))
        return [
            view if isinstance(view, PhotoError) else self._answer(looks[place], options[place])
            for place, view in enumerate(read)
        ]

    def heatmap(self, look: Look) -> Heatmap:
        """Where the network saw the likeliest class."""
        class_id = int(look.logits.argmax())
        grid = class_map(self._classifier, look.feature_map, class_id)
        return Heatmap(class_id, grid, look.view.box, look.view.size)

    def _answer(self, look: Look, asked: Options) -> Answer:
        answer = build_answer(
            look.logits,
            self.labels,
            self.manifest,
            verdict=look.verdict,
            region=Region(look.view.box, look.view.source, look.view.size),
            top_k=asked.top_k,
            request_id=asked.request_id,
            warnings=look.view.warnings,
            timing_ms={"decode": look.decode_ms, "inference": look.inference_ms},
        )
        return replace(answer, heatmap=self.heatmap(look)) if asked.explain else answer
