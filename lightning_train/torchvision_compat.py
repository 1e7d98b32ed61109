"""Make torchvision importable beside a CPU build of torch from another index.

The registry's torchvision wheel is built against CUDA torch. Beside torch "+cpu" its compiled
operators cannot load, and `import torchvision` dies while registering shape rules for them
("operator torchvision::nms does not exist"). Declaring the schemas first lets models and datasets
import; the operators themselves (box suppression) are not used here and stay unusable.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

__all__ = ["declare_missing_operators"]

_SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def declare_missing_operators() -> None:
    """Declare the operators that torchvision's import needs, if its own library cannot load."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    for library in Path(spec.origin).parent.glob("_C.*"):
        try:
            torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
            return  # torchvision fits this torch: nothing to mend
        except OSError:
            pass
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", schema)
