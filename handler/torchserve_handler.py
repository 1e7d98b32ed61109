"""The TorchServe adapter, the archive's entry point: requests in, the public contract out.

Everything else in this package runs without TorchServe; what TorchServe wants is known here only.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from http import HTTPStatus
from pathlib import Path
from typing import Any

from ts.context import Context
from ts.metrics.caching_metric import CachingMetric
from ts.metrics.metric_cache_errors import MetricsCacheKeyError
from ts.metrics.metric_type_enum import MetricTypes

# In an archive this file lies beside its own `handler` package. TorchServe puts the archive after
# PYTHONPATH, so another `handler` installed there would answer with other code than was tested.
_ARCHIVE = Path(__file__).resolve().parent
if (_ARCHIVE / "handler").is_dir():
    sys.path.insert(0, str(_ARCHIVE))

from handler.answer import Answer  # noqa: E402
from handler.errors import (  # noqa: E402
    ArchiveError,
    ImageMissingError,
    PhotoError,
    UnsupportedImageTypeError,
)
from handler.identifier import CarIdentifier  # noqa: E402
from handler.memory import return_freed_memory  # noqa: E402
from handler.options import OPTION_NAMES, Options  # noqa: E402
from handler.telemetry import METRICS, Metric, log_line, observations  # noqa: E402

logger = logging.getLogger(__name__)

# A raw request body comes as `body`; a multipart one under the names its sender chose.
_PHOTO_FIELDS = ("data", "body", "file")


# TorchServe takes the one class that this module defines.
class CarIdentifierHandler:
    """Answers TorchServe's batches.

    Each request is answered by itself, with its own HTTP status: an exception would fail the whole
    batch. Request headers hold TorchServe's key and bodies hold people's photos, so neither is ever
    logged.
    """

    def initialize(self, context: Context) -> None:
        """Load the model and run its self-check.

        `handler: {threads: N}` in model-config.yaml caps the CPU threads of the engine and of
        decoding. The engine runs on the GPU that TorchServe gives the worker, if it can use one. A
        broken archive is logged in one line and ends the worker.
        """
        start = time.perf_counter()
        return_freed_memory()
        config = (context.model_yaml_config or {}).get("handler") or {}
        directory = context.system_properties["model_dir"]
        try:
            self._identifier = CarIdentifier.from_directory(
                directory, config.get("threads"), _device(context)
            )
        except ArchiveError as error:
            # TorchServe would bury an exception in a traceback at each of its retries, and after a
            # RuntimeError keep the broken version registered.
            logger.error("%s can't be served: %s", context.model_name, error)
            sys.exit(1)
        manifest = self._identifier.manifest
        self._metrics = {metric: _find(metric, context) for metric in METRICS}
        logger.info(
            "%s %s is ready: %s on %s, %d classes, loaded and self-checked in %.1f s",
            manifest.name,
            manifest.version,
            manifest.network,
            manifest.engine,
            len(self._identifier.labels),
            time.perf_counter() - start,
        )

    def handle(self, data: list[dict[str, Any]], context: Context) -> list[str]:
        """Answer a batch: one JSON body per request, in order."""
        request_ids = [context.get_request_id(index) for index in range(len(data))]
        replies: dict[int, Answer | PhotoError | dict[str, Any]] = {}
        photos: dict[int, bytes | bytearray] = {}
        options: dict[int, Options] = {}
        for index, fields in enumerate(data):
            headers = context.get_all_request_header(index)
            # What `GET /models/NAME?customized=true` of the management API becomes.
            if headers.get("describe") == "True":
                replies[index] = self.describe_handle()
                continue
            try:
                sent = _sent_options(fields, headers)
                if "request_id" in sent:
                    request_ids[index] = Options(request_id=sent["request_id"]).request_id
                options[index] = Options.parse(**{**sent, "request_id": request_ids[index]})
                photos[index] = _photo(fields)
            except PhotoError as error:
                replies[index] = error.detached()

        answers = self._identifier.identify(
            list(photos.values()), [options[index] for index in photos]
        )
        replies.update(zip(photos, answers, strict=True))
        self._record(replies, request_ids)

        bodies = []
        for index in range(len(data)):
            reply = replies[index]
            context.set_response_content_type(index, "application/json")
            if isinstance(reply, PhotoError):
                context.set_response_status(reply.status, HTTPStatus(reply.status).phrase, index)
                body = reply.to_json(request_ids[index])
            elif isinstance(reply, Answer):
                body = reply.to_json()
            else:
                body = reply
            bodies.append(json.dumps(body, ensure_ascii=False))
        return bodies

    def _record(
        self,
        replies: Mapping[int, Answer | PhotoError | dict[str, Any]],
        request_ids: Sequence[str | None],
    ) -> None:
        """Count and log the photos of a batch."""
        results = {index: reply for index, reply in replies.items() if not isinstance(reply, dict)}
        version = self._identifier.manifest.version
        for metric, value, labels in observations(list(results.values())):
            self._metrics[metric].add_or_update(value, [version, *labels])
        for index, result in results.items():
            logger.info(log_line(result, request_ids[index], len(results)))

    def describe_handle(self) -> dict[str, Any]:
        """What this version of the model knows, for the management API."""
        manifest = self._identifier.manifest
        return {
            "model_version": manifest.version,
            "network": manifest.network,
            "labels": [asdict(label) for label in self._identifier.labels],
            "metrics": manifest.metrics,
            "provenance": manifest.provenance,
        }


def _find(metric: Metric, context: Context) -> CachingMetric:
    """The metric as metrics.yaml declares it; made here if that file has none of ours."""
    kind = MetricTypes(metric.kind)
    try:
        return context.metrics.get_metric(metric.name, kind)
    except MetricsCacheKeyError:
        labels = ["model_version", *metric.labels]
        return context.metrics.add_metric_to_cache(metric.name, metric.unit, labels, kind)


def _device(context: Context) -> str | None:
    """Where TorchServe wants this worker to run; None leaves it to the engine."""
    gpu = context.system_properties.get("gpu_id")
    return None if gpu is None else f"cuda:{gpu}"


def _sent_options(fields: Mapping[str, Any], headers: Mapping[str, Any]) -> dict[str, str]:
    """The options in a request: multipart fields, or headers (`top_k`, `Top-K`, `X-Top-K`).

    `explain` is also what TorchServe makes of the path `/explanations`; its batches mix the two.
    """
    sent = {}
    # Fields come last and so win: TorchServe puts the content type of each among the headers.
    for name, value in (*headers.items(), *fields.items()):
        option = name.lower().replace("-", "_").removeprefix("x_")
        if option in OPTION_NAMES:
            sent[option] = _text(value)
    return sent


def _text(value: object) -> str:
    if isinstance(value, bytes | bytearray):
        return value.decode(errors="replace")
    return str(value)


def _photo(fields: Mapping[str, Any]) -> bytes | bytearray:
    value = next((fields[name] for name in _PHOTO_FIELDS if fields.get(name) is not None), None)
    if value is None:
        raise ImageMissingError(
            "The request holds no image. Send the photo as the request's body, or as the multipart "
            f"field {_PHOTO_FIELDS[0]!r}."
        )
    # With `decode_input_request` on, TorchServe hands over text and JSON already decoded.
    if isinstance(value, str):
        return value.encode()
    if not isinstance(value, bytes | bytearray):
        raise UnsupportedImageTypeError(
            "The image came as JSON. Send the photo's bytes themselves."
        )
    return value
