"""From a network to an engine's file: one graph from raw pixels to logits and feature map."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, cast

import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_weights

from handler.preprocessing import Preprocessing
from lightning_train.classifier import CarClassifier
from lightning_train.networks import CarNetwork

__all__ = [
    "class_weights",
    "export_openvino",
    "export_torch",
    "float_logits",
    "fold_batch_norms",
    "quantize",
    "write_openvino",
    "write_torch",
]


class _FromPixels(nn.Module):
    """The network with its input normalisation, from what the worker has: uint8 [N, H, W, 3].

    Neither names a precision but the mean and the head, float32 whatever the trunk computes in:
    the rest follows the constants and weights by type promotion.
    """

    def __init__(self, network: CarNetwork, preprocessing: Preprocessing) -> None:
        super().__init__()
        # Of its own, and laid out as both exporters expect.
        network = copy.deepcopy(network).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.trunk = network.stages
        self.head = network.head
        mean = torch.tensor(preprocessing.mean).view(1, 3, 1, 1) * 255
        std = torch.tensor(preprocessing.std).view(1, 3, 1, 1) * 255
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        images = (pixels.permute(0, 3, 1, 2) - self.mean) / self.std  # type: ignore[operator]
        feature_map = self.trunk(images)
        return self.head(feature_map.mean(dim=(2, 3), dtype=torch.float32)), feature_map


def float_logits(model: CarClassifier, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits [N, C] of the float network for pixels [N, H, W, 3]: what quantisation starts from."""
    with torch.inference_mode():
        batches = [
            model(torch.from_numpy(pixels[i : i + 32]).permute(0, 3, 1, 2))
            for i in range(0, len(pixels), 32)
        ]
    result: NDArray[np.float32] = torch.cat(batches).numpy()
    return result


def class_weights(network: CarNetwork) -> NDArray[np.float16]:
    """The head's weights [C, F]: times the feature map they are the map of each class.

    Nothing but a mean lies between map and logits, so the mean of a class's map over the picture
    is its logit less the head's bias: the map says how much each place speaks for the class.
    """
    weights: NDArray[np.float16] = network.head.weight.detach().half().numpy()
    return weights


def export_openvino(network: CarNetwork, preprocessing: Preprocessing) -> Any:
    """Convert to an OpenVINO graph, any batch size, with the two outputs named.

    Returns:
        `openvino.Model`: `pixels` uint8 [N, H, W, 3] → `logits` [N, C], `feature_map` [N, F, h, w].
    """
    size = preprocessing.size
    graph = ov.convert_model(
        _FromPixels(network, preprocessing).eval(),
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


def write_openvino(
    network: CarNetwork,
    preprocessing: Preprocessing,
    directory: Path,
    calibration: NDArray[np.uint8] | None,
) -> None:
    """Write `model.xml` and `model.bin`, in 8 bits.

    Args:
        network: in evaluation mode.
        preprocessing: goes into the graph.
        directory: where to.
        calibration: for `quantize`; None leaves the network in float32.
    """
    graph = export_openvino(network, preprocessing)
    if calibration is not None:
        graph = quantize(graph, calibration)
    # What stays float stays exact: fp16 would save a megabyte at most.
    ov.save_model(graph, directory / "model.xml", compress_to_fp16=False)


def write_torch(network: CarNetwork, preprocessing: Preprocessing, directory: Path) -> None:
    """Write `model.pt2`, which torch alone can load, with weights in half precision."""
    torch.export.save(export_torch(network, preprocessing), directory / "model.pt2")


def export_torch(network: CarNetwork, preprocessing: Preprocessing) -> torch.export.ExportedProgram:
    """Trace to a torch program, any batch size; see `handler.torch_engine.TorchEngine`.

    The trunk is stored as float16, not bfloat16: it costs the same and is eight times as exact
    where the engine computes in float32. The head stays float32.

    Returns:
        uint8 [N, H, W, 3] → logits float32 [N, C], feature map [N, F, h, w].
    """
    module = _FromPixels(network, preprocessing).eval()
    size = preprocessing.size
    fold_batch_norms(module.trunk, torch.zeros(1, 3, size, size))
    module.trunk.half()
    module.mean, module.std = module.mean.half(), module.std.half()
    return torch.export.export(
        module,
        (torch.zeros(2, size, size, 3, dtype=torch.uint8),),
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
    )


def fold_batch_norms(trunk: nn.Module, images: Tensor) -> None:
    """Put every BatchNorm into the convolution before it, in place: the same function, faster.

    OpenVINO does this by itself; eager torch would launch a kernel for each, and round once more.

    Args:
        trunk: in evaluation mode.
        images: any batch it takes. It is run once to see whose output each BatchNorm gets.

    Raises:
        ValueError: a BatchNorm does not follow a convolution.
    """
    outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # the tensors are kept, so that ids are
    pairs: dict[nn.BatchNorm2d, nn.Conv2d] = {}

    def remember(module: nn.Conv2d, _: Any, output: Tensor) -> None:
        outputs[id(output)] = (module, output)

    def pair(module: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        if id(inputs[0]) not in outputs:
            raise ValueError("a BatchNorm that follows no convolution can't be folded")
        pairs[module] = outputs[id(inputs[0])][0]

    hooks = []
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(remember))
        elif isinstance(module, nn.BatchNorm2d):
            hooks.append(module.register_forward_pre_hook(pair))
    with torch.inference_mode():
        trunk(images)
    for hook in hooks:
        hook.remove()
    for norm, conv in pairs.items():
        mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, mean, variance, norm.eps, norm.weight, norm.bias
        )
    for parent in list(trunk.modules()):
        for name, child in parent.named_children():
            if child in pairs:
                setattr(parent, name, nn.Identity())
