"""What the worker tells its operator: figures for Prometheus, and a line of JSON per request.

Neither holds anything of a photo or its sender: no bytes, no headers, not even which car it was.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from handler.answer import Answer
from handler.errors import PhotoError

__all__ = ["METRICS", "Metric", "log_line", "observations"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure.

    Attributes:
        name: as Prometheus shows it.
        kind: of figure.
        unit: what is counted.
        labels: besides the model's version, which all have.
    """

    name: str
    kind: Literal["counter", "histogram"]
    unit: str
    labels: tuple[str, ...] = ()


ANSWERS = Metric("car_identifier_answers_total", "counter", "answers", ("verdict", "region"))
ERRORS = Metric("car_identifier_errors_total", "counter", "errors", ("code",))
CONFIDENCE = Metric("car_identifier_confidence", "histogram", "ratio")
STAGE_SECONDS = Metric("car_identifier_stage_seconds", "histogram", "seconds", ("stage",))
BATCH_SIZE = Metric("car_identifier_batch_size", "histogram", "requests")

# TorchServe shows those that its metrics.yaml lists too.
METRICS = (ANSWERS, ERRORS, CONFIDENCE, STAGE_SECONDS, BATCH_SIZE)


def observations(
    results: Sequence[Answer | PhotoError],
) -> Iterator[tuple[Metric, float, tuple[str, ...]]]:
    """What a batch adds to the metrics: metric, value, and values of its labels.

    Nothing for a batch without photos, such as TorchServe's questions about the model.
    """
    answers = [result for result in results if isinstance(result, Answer)]
    errors = Counter(result.code for result in results if isinstance(result, PhotoError))
    kinds = Counter((answer.verdict, answer.region.source) for answer in answers)
    if results:
        yield BATCH_SIZE, len(results), ()
    for labels, count in kinds.items():
        yield ANSWERS, count, labels
    for code, count in errors.items():
        yield ERRORS, count, (code,)
    for answer in answers:
        yield CONFIDENCE, round(answer.predictions[0].confidence, 4), ()
        for stage, ms in answer.timing_ms.items():
            yield STAGE_SECONDS, round(ms / 1000, 5), (stage,)


def log_line(result: Answer | PhotoError, request_id: str | None, batch_size: int) -> str:
    """One request as JSON in one line; times are in milliseconds."""
    entry: dict[str, object] = {"request_id": request_id, "batch_size": batch_size}
    if isinstance(result, PhotoError):
        entry |= {"status": result.status, "error": result.code}
    else:
        entry |= {
            "status": 200,
            "verdict": result.verdict,
            "confidence": round(result.predictions[0].confidence, 4),
            "region": result.region.source,
            **{f"{stage}_ms": round(ms, 1) for stage, ms in result.timing_ms.items()},
        }
    return json.dumps(entry)
