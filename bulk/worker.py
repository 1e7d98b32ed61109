"""One engine and the photos it is handed: names in, answers out."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import ray

from bulk.sources import read_photo
from handler.answer import Answer
from handler.archive import extract_archive
from handler.errors import PhotoError, PhotoTimeoutError
from handler.identifier import CarIdentifier
from handler.options import Options

__all__ = ["SCHEMA", "Worker"]

_PREDICTION = [
    ("make", pa.string()),
    ("model", pa.string()),
    ("body", pa.string()),
    ("year", pa.int32()),
    ("label", pa.string()),
    ("class_id", pa.int32()),
    ("confidence", pa.float64()),
]
_REGION = [(side, pa.int32()) for side in ("left", "top", "right", "bottom")]

# A row of the result: the public contract's answer, flat where it is one value.
SCHEMA = pa.schema(
    [
        ("photo", pa.string()),
        ("status", pa.string()),
        ("error_code", pa.string()),
        ("error_message", pa.string()),
        *_PREDICTION,
        ("make_confidence", pa.float64()),
        ("verdict", pa.string()),
        ("predictions", pa.list_(pa.struct(_PREDICTION))),
        ("region", pa.struct([*_REGION, ("source", pa.string())])),
        ("warnings", pa.list_(pa.string())),
        ("model_version", pa.string()),
        ("decode_ms", pa.float64()),
        ("inference_ms", pa.float64()),
    ]
)


class UnreadableFileError(PhotoError):
    """The file is not there, or can't be read."""

    code: ClassVar[str] = "unreadable_file"
    status: ClassVar[int] = 404


class Worker:
    """Answers photos; safe to call from several threads, so that one reads while another runs."""

    def __init__(self, archive: list[ray.ObjectRef[bytes]], threads: int, top_k: int) -> None:
        """Unpack the archive and load its engine.

        Args:
            archive: one reference to the content of the .mar (its path means nothing on another
                machine), in a list, so that it is not copied with every call.
            threads: CPU cores for this engine.
            top_k: predictions per photo.

        Raises:
            ArchiveError: a part is missing or broken, or the self-check failed.
        """
        _claim_cores(threads)
        self._options = Options(top_k=top_k)
        with tempfile.TemporaryDirectory(prefix="carid_bulk_") as directory:
            packed = Path(directory, "archive.mar")
            packed.write_bytes(ray.get(archive[0]))
            with extract_archive(packed) as unpacked:
                self._identifier = CarIdentifier.from_directory(unpacked, threads)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Answer the photos that the column `photo` names: a row for each, whatever happens."""
        names: list[str] = batch["photo"].to_pylist()
        files = [_read(name) for name in names]
        answered = iter(self._identify([file for file in files if isinstance(file, bytes)]))
        results = [next(answered) if isinstance(file, bytes) else file for file in files]
        version = self._identifier.manifest.version
        rows = [
            _row(name, result) if isinstance(result, Answer) else _refusal(name, result, version)
            for name, result in zip(names, results, strict=True)
        ]
        return pa.Table.from_pylist(rows, SCHEMA)

    def _identify(self, photos: list[bytes]) -> list[Answer | PhotoError]:
        results = self._identifier.identify(photos, [self._options] * len(photos))
        # Here nobody waits: whose turn did not come in time has one of its own.
        for place, result in enumerate(results):
            if isinstance(result, PhotoTimeoutError):
                [results[place]] = self._identifier.identify([photos[place]], [self._options])
        return results


def _refusal(photo: str, error: PhotoError, version: str) -> dict[str, Any]:
    told = {"status": "refused", "error_code": error.code, "error_message": error.message}
    return {"photo": photo, **told, "model_version": version}


def _row(photo: str, answer: Answer) -> dict[str, Any]:
    row = answer.to_json()
    timing = {f"{stage}_ms": ms for stage, ms in row["timing_ms"].items()}
    return {"photo": photo, "status": "answered", **row, **timing}


def _read(photo: str) -> bytes | PhotoError:
    try:
        return read_photo(photo)
    except OSError as error:
        return UnreadableFileError(error.strerror or str(error)).detached()


def _claim_cores(count: int) -> None:
    """Keep to cores that no other worker of this machine has, as far as there are any.

    OpenVINO pins its threads to the first cores it may use: engines that may use all of them crowd
    on the same few, at about half the speed. A socket's name is held by one process of a machine,
    and given back however that process ends.
    """
    if not hasattr(os, "sched_setaffinity"):
        return  # neither on macOS nor on Windows: there they stay the system's choice
    claimed: set[int] = set()
    for core in sorted(os.sched_getaffinity(0)):
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0carid-bulk-core-{core}")
        except OSError:
            claim.close()
            continue
        claim.detach()  # held until this process ends
        claimed.add(core)
        if len(claimed) == count:
            os.sched_setaffinity(0, claimed)
            return
