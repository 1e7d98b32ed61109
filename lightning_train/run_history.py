"""The runs that led to a network, from what `RunRecord` has left of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["history_table", "own_records", "read_runs"]

_NEEDED = ("network", "device", "epochs", "minutes", "photos_per_second", "sizes", "last")


def own_records(checkpoint: Path) -> tuple[Path | None, list[Path]]:
    """The configuration, and the log folder if a run is recorded there, that a checkpoint is of.

    Args:
        checkpoint: LOGS/checkpoints/NAME.ckpt, or what lies elsewhere and is of none.
    """
    if not checkpoint.is_file():
        return None, []
    logs = checkpoint.resolve().parent.parent
    config, record = logs / "config.yaml", logs / "run.json"
    return config if config.is_file() else None, [logs] if record.is_file() else []


def read_runs(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """The `run.json` of each folder, with the folder's name, in their order.

    Args:
        folders: log folders of `fit`, or copies of their `run.json`.

    Raises:
        ValueError: one of them holds none, or something else.
    """
    runs = []
    for folder in folders:
        path = folder / "run.json" if folder.is_dir() else folder
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            run = {name: content[name] for name in _NEEDED}
        except FileNotFoundError:
            raise ValueError(f"no {path}: 'fit' writes it to its log folder") from None
        except (ValueError, LookupError, TypeError) as error:
            raise ValueError(f"{path} is no record of a run ({error!r})") from error
        runs.append({"run": _name(path), **run})
    return runs


def _name(record: Path) -> str:
    """runs/NAME/logs/version_N/run.json and NAME/run.json → NAME."""
    parents = [p.name for p in record.resolve().parents]
    known = ("logs", "report")
    return next(p for p in parents if p not in known and not p.startswith("version_"))


def history_table(runs: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a row for each run, in order."""
    rows = [
        "| run | network | photos, px | epochs | minutes | photos/s | on | validation top-1 |",
        "|---|---|---|--:|--:|--:|---|--:|",
    ]
    for run in runs:
        top1 = run["last"].get("val_top1")
        cells = [
            run["run"],
            run["network"],
            " → ".join(map(str, run["sizes"])),
            run["epochs"],
            f"{run['minutes']:.0f}",
            f"{run['photos_per_second']:,.0f}",
            run["device"],
            "–" if top1 is None else f"{100 * top1:.2f} %",
        ]
        rows.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(rows)
