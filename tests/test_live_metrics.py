"""The worker's metrics on the real TorchServe's metrics port, as Prometheus reads them."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import requests
from factories import GREY, RED, encode, photo, picture, scene
from live_stack import LiveStack
from PIL import Image

from handler.telemetry import METRICS

pytestmark = pytest.mark.live

GOOD = [
    photo(RED),
    photo(RED, (1600, 1200)),
    encode(scene((RED, (300, 200, 500, 350))), "PNG"),
    encode(picture(GREY), "WEBP"),
]
BAD = {
    photo(RED)[:300]: "image_unreadable",
    encode(picture(), "PNG")[:40]: "image_unreadable",
    b"I am a text, no photo.": "unsupported_image_type",
    encode(Image.new("1", (12_000, 12_000)), "PNG"): "image_too_large",
}
ANSWERS, ERRORS = "car_identifier_answers_total", "car_identifier_errors_total"


class Scrape:
    """What the metrics port says at one moment.

    Attributes:
        samples: name and labels → value.
        kinds: name of a metric → its kind.
    """

    def __init__(self, stack: LiveStack) -> None:
        text = requests.get(f"{stack.metrics_url}/metrics", timeout=30).text
        lines = re.findall(r"^(\w+)\{(.*)\} (\S+)$", text, re.MULTILINE)
        self.samples = {
            (name, frozenset(re.findall(r'(\w+)="([^"]*)",?', labels))): float(value)
            for name, labels, value in lines
        }
        self.kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))

    def labels(self, name: str) -> list[dict[str, str]]:
        """The labels of each sample of this name."""
        return [dict(labels) for sample, labels in self.samples if sample == name]

    def by(self, name: str, *labels: str) -> Mapping[tuple[str, ...], float]:
        """The samples of this name, summed by these labels."""
        found: dict[tuple[str, ...], float] = {}
        for (sample, pairs), value in self.samples.items():
            if sample == name:
                key = tuple(dict(pairs)[label] for label in labels)
                found[key] = found.get(key, 0) + value
        return found

    @property
    def photos(self) -> float:
        """How many photos have been counted, answered or not."""
        return sum(self.by(ANSWERS).values()) + sum(self.by(ERRORS).values())


@dataclass(frozen=True)
class Sent:
    """A few photos, and the metrics before and after them."""

    answers: list[dict[str, Any]]
    before: Scrape
    after: Scrape

    def rise(self, name: str, *labels: str) -> dict[tuple[str, ...], float]:
        """By how much the samples of this name rose, by labels; those that did."""
        before, after = self.before.by(name, *labels), self.after.by(name, *labels)
        rises = {key: value - before.get(key, 0) for key, value in after.items()}
        return {key: value for key, value in rises.items() if value}


@pytest.fixture(scope="module")
def sent(live_stack: LiveStack) -> Sent:
    before = counted(live_stack, at_least=0)
    photos = [*GOOD, *BAD, *GOOD, GOOD[0]]
    form = [("file", (str(number), data)) for number, data in enumerate(photos)]
    response = requests.post(f"{live_stack.url}/v1/identify", files=form, timeout=60)
    results = response.json()["results"]
    answers = [result["answer"] for result in results if result["status"] == 200]
    codes = [result["error"]["code"] for result in results if result["status"] != 200]
    assert (len(answers), codes) == (len(photos) - len(BAD), list(BAD.values()))
    return Sent(answers, before, counted(live_stack, at_least=before.photos + len(photos)))


def counted(stack: LiveStack, at_least: float) -> Scrape:
    """The metrics once that many photos are in them and no more come.

    TorchServe takes them from what the worker prints: soon after its answers, not with them.
    """
    deadline = time.monotonic() + 20
    last, now = None, Scrape(stack)
    while last != now.photos or now.photos < at_least:
        assert time.monotonic() < deadline, f"{now.photos} of {at_least} photos were counted"
        time.sleep(0.5)
        last, now = now.photos, Scrape(stack)
    return now


def test_answers_are_counted_by_verdict_and_region(sent: Sent) -> None:
    expected = Counter((answer["verdict"], answer["region"]["source"]) for answer in sent.answers)
    assert sent.rise(ANSWERS, "verdict", "region") == expected


def test_errors_are_counted_by_code(sent: Sent) -> None:
    assert sent.rise(ERRORS, "code") == {(code,): n for code, n in Counter(BAD.values()).items()}


def test_confidence_is_a_histogram_over_the_answers(sent: Sent) -> None:
    confidences = [answer["confidence"] for answer in sent.answers]
    name = "car_identifier_confidence"
    assert sent.rise(f"{name}_count") == {(): len(confidences)}
    assert sent.rise(f"{name}_sum")[()] == pytest.approx(sum(confidences), abs=0.01)
    buckets = sent.rise(f"{name}_bucket", "le")
    for bound in (0.5, 1.0):
        assert buckets.get((str(bound),), 0) == sum(one <= bound for one in confidences)
    assert buckets["+Inf",] == len(confidences)


def test_the_times_of_the_stages_are_histograms_in_seconds(sent: Sent) -> None:
    name = "car_identifier_stage_seconds"
    for stage in ("decode", "inference"):
        seconds = [answer["timing_ms"][stage] / 1000 for answer in sent.answers]
        assert sent.rise(f"{name}_count", "stage")[stage,] == len(seconds)
        # Answers are rounded to a tenth of a millisecond.
        measured = sent.rise(f"{name}_sum", "stage")[stage,]
        assert measured == pytest.approx(sum(seconds), abs=1e-4 * len(seconds))
        assert sent.rise(f"{name}_bucket", "stage", "le")[stage, "+Inf"] == len(seconds)


def test_the_sizes_of_the_batches_add_up_to_the_photos(sent: Sent) -> None:
    photos = len(sent.answers) + len(BAD)
    name = "car_identifier_batch_size"
    assert sent.rise(f"{name}_sum") == {(): photos}
    batches = sent.rise(f"{name}_count")[()]
    assert photos / 8 <= batches < photos, "some were together, never more than 8"


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_metric_has_its_documented_kind_and_labels(sent: Sent, metric: Any) -> None:
    histogram = metric.kind == "histogram"
    assert sent.after.kinds[metric.name] == metric.kind
    samples = sent.after.labels(f"{metric.name}_bucket" if histogram else metric.name)
    names = {"model_version", "Hostname", *metric.labels, *(["le"] if histogram else [])}
    assert all(set(labels) == names for labels in samples)
    assert {labels["model_version"] for labels in samples} == {sent.answers[0]["model_version"]}


def test_torchserves_own_metrics_are_there_too(sent: Sent) -> None:
    assert sent.rise("ts_inference_requests_total")[()] == len(sent.answers) + len(BAD)
    for name in ("ts_queue_latency_microseconds", "MemoryUsed", "PredictionTime"):
        assert sent.after.labels(name), name
