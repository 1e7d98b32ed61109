"""`model.json`: what the archive says about the model inside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handler.errors import ArchiveError
from handler.known import KnownScore
from handler.preprocessing import Preprocessing

__all__ = ["ModelManifest"]


@dataclass(frozen=True, slots=True)
class ModelManifest:
    """What serving needs to know about a model besides its weights and labels.

    Attributes:
        name: model name, e.g. "car_identifier".
        version: model version, e.g. "1.0"; every answer carries it.
        engine: what runs the network, e.g. "openvino".
        network: architecture, e.g. "resnet152".
        preprocessing: how a photo becomes network input.
        temperature: logits are divided by it before the softmax, so that confidence means what it
            says (Guo et al. 2017, arXiv 1706.04599).
        known: tells `identified` from `uncertain`; has the same temperature.
        selfcheck_atol: how far the logits of the self-check may lie from the stored ones.
        metrics: how well the model does, free form.
        provenance: where it comes from, free form.
    """

    name: str
    version: str
    engine: str
    network: str
    preprocessing: Preprocessing
    temperature: float
    known: KnownScore
    selfcheck_atol: float
    metrics: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The content of `model.json`, for `from_dict`."""
        return {
            "name": self.name,
            "version": self.version,
            "engine": self.engine,
            "network": self.network,
            "preprocessing": self.preprocessing.to_dict(),
            "calibration": {"temperature": self.temperature},
            "verdict": {
                "score": self.known.name,
                "threshold": self.known.threshold,
                "stricter_if_found": self.known.stricter_if_found,
            },
            "selfcheck": {"atol": self.selfcheck_atol},
            "metrics": dict(self.metrics),
            "provenance": dict(self.provenance),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelManifest:
        """Read what `to_dict` wrote.

        Raises:
            ArchiveError: a key is missing or holds an impossible value.
        """
        try:
            temperature = float(data["calibration"]["temperature"])
            verdict = data["verdict"]
            return cls(
                name=str(data["name"]),
                version=str(data["version"]),
                engine=str(data["engine"]),
                network=str(data["network"]),
                preprocessing=Preprocessing.from_dict(data["preprocessing"]),
                temperature=temperature,
                known=KnownScore(
                    str(verdict["score"]),
                    temperature,
                    float(verdict["threshold"]),
                    # Archives before 1.2 have none.
                    float(verdict.get("stricter_if_found", 0.0)),
                ),
                selfcheck_atol=float(data["selfcheck"]["atol"]),
                metrics=dict(data.get("metrics", {})),
                provenance=dict(data.get("provenance", {})),
            )
        except KeyError as error:
            raise ArchiveError(f"model.json has no {error}: build the archive again") from error
        except (AttributeError, TypeError, ValueError) as error:
            raise ArchiveError(
                f"model.json is invalid ({error}): build the archive again"
            ) from error

    @classmethod
    def read(cls, path: str | Path) -> ModelManifest:
        """Read a `model.json`.

        Raises:
            ArchiveError: the file is missing or is no manifest.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ArchiveError(f"can't read model.json: {error}") from error
        return cls.from_dict(data)

    def write(self, path: str | Path) -> None:
        """Write a `model.json` that `read` reads back unchanged."""
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False)
        Path(path).write_text(text + "\n", encoding="utf-8")
