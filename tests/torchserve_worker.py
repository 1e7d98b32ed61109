"""The TorchServe adapter, driven with TorchServe's own request and context objects."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ts.context import Context
from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
from ts.service import Service

from handler.torchserve_handler import CarIdentifierHandler

METRICS_YAML = Path(__file__).resolve().parent.parent / "metrics.yaml"
# What TorchServe makes of a request to /explanations.
EXPLANATIONS = {"explain": "True"}


@dataclass
class Request:
    """One request as TorchServe's frontend passes it on: the parts of its body, and its headers."""

    parts: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    def to_torchserve(self, number: int) -> dict[str, Any]:
        return {
            "requestId": f"torchserve-{number}".encode(),
            "headers": [
                {"name": name.encode(), "value": value.encode()}
                for name, value in self.headers.items()
            ],
            "parameters": [
                {"name": name, "contentType": "", "value": value}
                for name, value in self.parts.items()
            ],
        }


@dataclass
class Reply:
    status: int
    phrase: str | None
    content_type: str | None
    body: dict[str, Any]

    @property
    def label(self) -> str:
        return self.body["label"]

    @property
    def code(self) -> str:
        return self.body["error"]["code"]


class Worker:
    """The adapter as TorchServe holds it: made once, then handed batches."""

    def __init__(self, directory: Path, yaml_config: dict[str, Any] | None = None) -> None:
        metrics = MetricsCacheYamlImpl(str(METRICS_YAML))
        metrics.initialize_cache()
        self.context = Context(
            "car_identifier",
            str(directory),
            manifest={},
            batch_size=8,
            gpu=None,
            mms_version="0.12.0",
            metrics=metrics,
            model_yaml_config=yaml_config or {},
        )
        self.handler = CarIdentifierHandler()
        self.handler.initialize(self.context)

    def answer(self, *requests: Request) -> list[Reply]:
        batch = [request.to_torchserve(number) for number, request in enumerate(requests)]
        headers, data, ids = Service.retrieve_data_for_inference(batch)
        self.context.request_processor, self.context.request_ids = headers, ids
        bodies = self.handler.handle(data, self.context)
        assert isinstance(bodies, list)  # TorchServe takes nothing else
        return [
            Reply(
                *self.context.get_response_status(index),
                self.context.get_response_content_type(index),
                json.loads(body),
            )
            for index, body in enumerate(bodies)
        ]
