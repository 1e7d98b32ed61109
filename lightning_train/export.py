"""From a checkpoint to an engine file: one OpenVINO graph from raw pixels to logits, int8."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from handler.preprocessing import Preprocessing
from lightning_train.classifier import CarClassifier
from lightning_train.networks import CarNetwork

__all__ = ["export_openvino", "float_logits", "load_classifier", "quantize"]


class _FromPixels(nn.Module):
    """The network with its input normalisation, from what the worker has: uint8 [N, H, W, 3]."""

    def __init__(self, network: CarNetwork, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network = network
        mean = torch.tensor(preprocessing.mean).view(1, 3, 1, 1) * 255
        std = torch.tensor(preprocessing.std).view(1, 3, 1, 1) * 255
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        images = (pixels.permute(0, 3, 1, 2).float() - self.mean) / self.std  # type: ignore[operator]
        return self.network.forward_features(images)


def load_classifier(checkpoint: str | Path) -> CarClassifier:
    """Load a training checkpoint for inference.

    Raises:
        ValueError: the file is missing or no checkpoint of this trainer.
    """
    path = Path(checkpoint)
    if not path.is_file():
        raise ValueError(f"no checkpoint {path}: train one with 'make train', or mend the path")
    try:
        model = CarClassifier.load_from_checkpoint(path, map_location="cpu", weights=None)
    except (KeyError, TypeError, RuntimeError, EOFError, UnpicklingError) as error:
        raise ValueError(f"{path} is no checkpoint of this trainer ({error})") from error
    return model.eval()


def float_logits(model: CarClassifier, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits [N, C] of the float network for pixels [N, H, W, 3]: what quantisation starts from."""
    with torch.inference_mode():
        batches = [
            model(torch.from_numpy(pixels[i : i + 32]).permute(0, 3, 1, 2))
            for i in range(0, len(pixels), 32)
        ]
    result: NDArray[np.float32] = torch.cat(batches).numpy()
    return result


def export_openvino(network: CarNetwork, preprocessing: Preprocessing) -> Any:
    """Convert to an OpenVINO graph, any batch size, with the two outputs named.

    Returns:
        `openvino.Model`: `pixels` uint8 [N, H, W, 3] → `logits` [N, C], `feature_map` [N, F, h, w].
    """
    size = preprocessing.size
    graph = ov.convert_model(
        _FromPixels(network.to(memory_format=torch.contiguous_format), preprocessing).eval(),  # type: ignore[call-overload]
        example_input=torch.zeros(1, size, size, 3, dtype=torch.uint8),
        input=("pixels", ov.PartialShape([-1, size, size, 3]), ov.Type.u8),
    )
    graph.input(0).get_tensor().set_names({"pixels"})
    for output, name in zip(graph.outputs, ("logits", "feature_map"), strict=True):
        output.get_tensor().set_names({name})
    return graph


def quantize(graph: Any, pixels: NDArray[np.uint8]) -> Any:
    """Quantise weights and activations to 8 bits, with ranges measured on real crops.

    Args:
        graph: from `export_openvino`.
        pixels: [N, H, W, 3], a few hundred training crops.
    """
    import nncf  # seconds to import, so only where it is used
    from nncf.quantization.advanced_parameters import OverflowFix

    return nncf.quantize(
        graph,
        nncf.Dataset([pixels[i : i + 1] for i in range(len(pixels))]),
        # Asymmetric activations cost nothing on the CPU and follow the data better.
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(pixels),
        # Processors without VNNI add 8-bit products in 16 bits, which full-range weights overflow:
        # logits then move by more than their own spread. Weights of 7 bits never overflow.
        advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=OverflowFix.ENABLE),
    )
