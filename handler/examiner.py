"""Looking at photos: at the whole, and closer where the car fills a part of it only."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from handler.answer import Verdict, verdict_of
from handler.car_detector import CarDetector
from handler.engine import Engine, EngineOutput
from handler.known import KnownScore, softmax
from handler.locator import CarLocator
from handler.reader import View
from handler.region import Box

__all__ = ["Examiner", "Look", "Reread"]

# How often a photo may be looked at, each time closer.
_MAX_LOOKS = 3
# A car that fills more of the view than this is seen well enough.
_CLOSE_ENOUGH = 0.6
# Pixels of a side below which a closer look has nothing more to show.
_MIN_SIDE = 32

Reread = Callable[[Mapping[int, Box]], Mapping[int, View]]


@dataclass(frozen=True, slots=True)
class Look:
    """What the network says about one view of a photo.

    Attributes:
        view: what was looked at.
        logits: [C].
        feature_map: [F, h, w].
        car_score: how much it looks like a car, see `CarDetector.scores`.
        confidence: calibrated probability of the likeliest class.
        verdict: what is concluded.
        decode_ms: milliseconds for this and all earlier looks at the photo.
        inference_ms: likewise, of the batches it was in.
        count: which look at the photo this is; of the best one, how many there were.
    """

    view: View
    logits: NDArray[np.float32]
    feature_map: NDArray[np.float32]
    car_score: float
    confidence: float
    verdict: Verdict
    decode_ms: float
    inference_ms: float
    count: int = 1

    @property
    def rank(self) -> tuple[int, float]:
        """The higher, the more this look is worth.

        A closer look at what is no clearer to see only adds another guess: of two with the same
        verdict it counts if it is twice as confident.
        """
        order = ("not_a_car", "uncertain", "identified")
        return order.index(self.verdict), self.confidence / (
            2 if self.view.source == "found" else 1
        )


class Examiner:
    """The network, and what is concluded from it about photos."""

    def __init__(
        self,
        engine: Engine,
        known: KnownScore,
        detector: CarDetector | None = None,
        locator: CarLocator | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            engine: runs the network.
            known: tells `identified` from `uncertain`.
            detector: says whether there is a car at all; without one everything is taken for one.
            locator: says where it is; without one there is no closer look.
        """
        self._engine = engine
        self._known = known
        self._detector = detector
        self._locator = locator

    def examine(self, views: Sequence[View], reread: Reread | None = None) -> list[Look]:
        """Look at photos, as one batch, and closer at those where that may help.

        A whole photo whose car is not identified, and fills a part of it only, is looked at again
        there: the network was trained on crops.

        Args:
            views: one of each photo.
            reread: index of a view → box to views of these boxes, of those that it can read;
                without it there is no closer look.

        Returns:
            The best look at each photo.
        """
        best = self._look(views) if views else []
        latest = dict(enumerate(best))
        for _ in range(_MAX_LOOKS - 1):
            wanted = {index: box for index, look in latest.items() if (box := self._closer(look))}
            closer = reread(wanted) if reread and wanted else {}
            if not closer:
                break
            looks = self._look(list(closer.values()))
            latest = {
                index: _in_all(look, latest[index])
                for index, look in zip(closer, looks, strict=True)
            }
            for index, look in latest.items():
                best[index] = replace(
                    max(best[index], look, key=lambda one: one.rank),
                    decode_ms=look.decode_ms,
                    inference_ms=look.inference_ms,
                    count=look.count,
                )
        return best

    def _car_scores(self, output: EngineOutput) -> NDArray[np.float32]:
        """How much each photo of a batch looks like a car at all, [N]; from 0 on it is one.

        Infinite without a detector: such an archive takes everything for a car.
        """
        if self._detector is None:
            return np.full(len(output.logits), np.inf, dtype=np.float32)
        return self._detector.scores(output.features)

    def _look(self, views: Sequence[View]) -> list[Look]:
        start = time.perf_counter()
        output = self._engine.run(np.stack([view.pixels for view in views]))
        inference_ms = 1000 * (time.perf_counter() - start)
        car_scores = self._car_scores(output)
        found = np.array([view.source == "found" for view in views])
        known = self._known.is_known(output.logits, found)
        confidences = softmax(output.logits / self._known.temperature).max(axis=-1)
        found_from = self._detector.found_from if self._detector else 0.0
        return [
            Look(
                view=view,
                logits=output.logits[index],
                feature_map=output.feature_map[index],
                car_score=float(car_scores[index]),
                confidence=float(confidences[index]),
                verdict=verdict_of(
                    car_scores[index] >= (found_from if found[index] else 0),
                    known[index],
                ),
                decode_ms=view.decode_ms,
                inference_ms=inference_ms,
            )
            for index, view in enumerate(views)
        ]

    def _closer(self, look: Look) -> Box | None:
        """What to look at next; None if this look is good enough or nothing better is in sight."""
        if look.verdict == "identified" or look.view.source == "box" or self._locator is None:
            return None
        view = look.view.box
        box = self._locator.find(look.feature_map, view)
        if box is None or min(box.width, box.height) < _MIN_SIDE:
            return None
        share = box.width * box.height / (view.width * view.height)
        return box if share <= _CLOSE_ENOUGH else None


def _in_all(look: Look, earlier: Look) -> Look:
    """A later look, with the time of those before it."""
    return replace(
        look,
        decode_ms=earlier.decode_ms + look.decode_ms,
        inference_ms=earlier.inference_ms + look.inference_ms,
        count=earlier.count + 1,
    )
