"""Every engine computes what the trained network does, from the same pixels, on every device."""

from __future__ import annotations

import copy
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny_network import tiny_model
from torch import Tensor, nn

from handler import torch_engine
from handler.engine import Engine, load_engine
from handler.errors import ArchiveError
from handler.torch_engine import TorchEngine
from lightning_train.classifier import CarClassifier
from lightning_train.export import (
    class_weights,
    float_logits,
    fold_batch_norms,
    write_openvino,
    write_torch,
)
from lightning_train.networks import build_network

ROOT = Path(__file__).resolve().parent.parent
NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
ENGINES = [
    pytest.param("openvino", "cpu", id="openvino"),
    pytest.param("torch", "cpu", id="torch-cpu"),
    pytest.param("torch", "cuda", id="torch-cuda", marks=NO_CUDA),
]
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model() -> CarClassifier:
    """Untrained, but with logits that differ and BatchNorms that do something."""
    torch.manual_seed(0)
    model = tiny_model().eval()
    for module in model.network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    nn.init.normal_(model.network.head.weight)
    nn.init.normal_(model.network.head.bias)
    return model


@pytest.fixture(scope="module")
def directory(model: CarClassifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network as both engines' files, nothing quantised."""
    directory = tmp_path_factory.mktemp("engines")
    write_openvino(model.network, model.preprocessing, directory, calibration=None)
    write_torch(model.network, model.preprocessing, directory)
    return directory


def tolerance(engine: Engine, expected: NDArray[np.float32]) -> float:
    """What rounding may move: a tenth of a percent is seen where the trunk's weights were rounded
    to half precision, two percent where everything is bfloat16. OpenVINO takes that by itself on
    some processors.
    """
    share = 0.005 if getattr(engine, "precision", "bfloat16") == "float32" else 0.05
    return share * float(expected.std())


@pytest.mark.parametrize(("name", "device"), ENGINES)
@pytest.mark.parametrize("photos", [1, 2, 5])
def test_an_engine_computes_what_the_network_does(
    name: str, device: str, photos: int, model: CarClassifier, directory: Path
) -> None:
    expected = float_logits(model, PIXELS[:photos])
    images = model.normalize(torch.from_numpy(PIXELS[:photos]).permute(0, 3, 1, 2))
    with torch.inference_mode():
        expected_map = model.network.stages(images).numpy()
    engine = load_engine(name, directory, device=device)
    output = engine.run(PIXELS[:photos])
    assert output.logits.dtype == output.feature_map.dtype == np.float32
    assert output.feature_map.flags.c_contiguous
    assert np.abs(output.logits - expected).max() < tolerance(engine, float_logits(model, PIXELS))
    assert np.abs(output.feature_map - expected_map).max() < tolerance(engine, expected_map)


@pytest.mark.parametrize(("name", "device"), ENGINES)
def test_the_maps_of_the_classes_average_to_the_logits(
    name: str, device: str, model: CarClassifier, directory: Path
) -> None:
    output = load_engine(name, directory, device=device).run(PIXELS)
    maps = np.einsum(
        "cf,nfhw->nchw", class_weights(model.network).astype(np.float32), output.feature_map
    )
    bias = model.network.head.bias.detach().numpy()
    assert maps.mean(axis=(2, 3)) + bias == pytest.approx(output.logits, abs=0.01)


def test_torch_computes_in_bfloat16_what_it_computes_in_float32(
    model: CarClassifier, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPU can do what a GPU is asked to, only slowly."""
    monkeypatch.setattr(torch_engine, "_fast_dtype", lambda _: torch.bfloat16)
    engine = TorchEngine(directory / "model.pt2", device="cpu")
    expected = float_logits(model, PIXELS)
    assert engine.precision == "bfloat16"
    assert np.abs(engine.run(PIXELS).logits - expected).max() < tolerance(engine, expected)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NO_CUDA)])
def test_torch_computes_logits_in_full_precision(
    device: str, model: CarClassifier, directory: Path
) -> None:
    output = load_engine("torch", directory, device=device).run(PIXELS)
    with torch.inference_mode():
        expected = model.network.head(torch.from_numpy(output.features)).numpy()
    assert output.logits == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("name", "device"), ENGINES)
def test_threads_get_the_answers_to_their_own_photos(
    name: str, device: str, directory: Path
) -> None:
    engine = load_engine(name, directory, device=device)
    alone = [engine.run(photo[None]).logits for photo in PIXELS]
    wrong: list[int] = []

    def ask(number: int) -> None:
        runs = [engine.run(PIXELS[number][None]).logits for _ in range(20)]
        wrong.extend(number for run in runs if not np.allclose(run, alone[number], atol=1e-4))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(PIXELS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("name", ["resnet50", "efficientnet_lite0"])
def test_folding_batch_norms_changes_no_features(name: str) -> None:
    torch.manual_seed(0)
    trunk = build_network(name, classes=7).stages
    images = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        trunk.train()(images)  # statistics of their own for the norms
        trunk.eval()
        expected = trunk(images)
        folded = copy.deepcopy(trunk)
        fold_batch_norms(folded, images[:1])
        assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
        assert torch.allclose(folded(images), expected, atol=1e-4 * float(expected.std()))


def test_the_program_for_torch_has_no_batch_norm_left(directory: Path) -> None:
    program = torch.export.load(directory / "model.pt2")
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert "aten.conv2d.default" in called
    assert not any("norm" in target for target in called)


def test_a_batch_norm_without_a_convolution_is_not_folded_into_another() -> None:
    with pytest.raises(ValueError, match="can't be folded"):
        fold_batch_norms(
            nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)).eval(),
            torch.zeros(1, 3, 8, 8),
        )


# --- torch ------------------------------------------------------------------------------------


def test_without_a_device_torch_takes_the_gpu_if_there_is_one(directory: Path) -> None:
    engines = [TorchEngine(directory / "model.pt2", device=device) for device in (None, "auto")]
    best = "cuda" if torch.cuda.is_available() else "cpu"
    assert [engine.device.type for engine in engines] == [best, best]


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda:99", "there is no device cuda:99"),
        ("gpu", "no device 'gpu': choose auto, cpu, cuda"),
        ("meta", "'meta' is not supported: choose auto, cpu, cuda"),
    ],
)
def test_a_device_that_is_not_there_is_named(directory: Path, device: str, message: str) -> None:
    with pytest.raises(ArchiveError, match=message):
        load_engine("torch", directory, device=device)


def test_openvino_refuses_a_gpu_and_says_what_would_use_it(directory: Path) -> None:
    with pytest.raises(ArchiveError, match="ENGINE=torch"):
        load_engine("openvino", directory, device="cuda:0")


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "one weight", "other zip"])
def test_a_program_that_cannot_be_loaded_is_refused_in_a_line(
    directory: Path, tmp_path: Path, damage: str
) -> None:
    content = (directory / "model.pt2").read_bytes()
    weight = first_weight(directory / "model.pt2")
    damaged = {
        "empty": b"",
        "cut": content[: len(content) // 2],
        "one weight": content.replace(weight, bytes([weight[0] ^ 0xFF]) + weight[1:]),
        "other zip": b"PK\x05\x06" + bytes(18),
    }
    if damage != "missing":
        (tmp_path / "model.pt2").write_bytes(damaged[damage])
    with pytest.raises(ArchiveError, match=r"model\.pt2") as refusal:
        load_engine("torch", tmp_path)
    assert "\n" not in str(refusal.value)


def first_weight(program: Path) -> bytes:
    with zipfile.ZipFile(program) as parts:
        [name] = [name for name in parts.namelist() if name.endswith("/weight_0")]
        return parts.read(name)


class Cramped(nn.Module):
    """The network in a memory that holds so many photos."""

    def __init__(self, network: nn.Module, room: int) -> None:
        super().__init__()
        self.network = network
        self.room = room
        self.batches: list[int] = []

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        self.batches.append(len(pixels))
        if len(pixels) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        result: tuple[Tensor, Tensor] = self.network(pixels)
        return result


def test_a_batch_too_big_for_the_memory_is_answered_in_parts(directory: Path) -> None:
    engine = TorchEngine(directory / "model.pt2", device="cpu")
    expected = engine.run(PIXELS)
    engine._network = cramped = Cramped(engine._network, room=2)
    output = engine.run(PIXELS)
    assert np.allclose(output.logits, expected.logits, atol=1e-5)
    assert np.allclose(output.feature_map, expected.feature_map, atol=1e-5)
    assert cramped.batches == [5, 2, 3, 1, 2]


def test_a_photo_too_big_for_the_memory_is_an_error_and_the_next_is_answered(
    directory: Path,
) -> None:
    engine = TorchEngine(directory / "model.pt2", device="cpu")
    engine._network = cramped = Cramped(engine._network, room=0)
    with pytest.raises(torch.OutOfMemoryError):
        engine.run(PIXELS[:2])
    assert cramped.batches == [2, 1]
    cramped.room = 1
    assert len(engine.run(PIXELS[:1]).logits) == 1


def test_the_program_needs_neither_torchvision_nor_the_trainer(directory: Path) -> None:
    code = (
        "import sys, pathlib, numpy\n"
        "from handler.engine import load_engine\n"
        f"engine = load_engine('torch', pathlib.Path({str(directory)!r}), device='cpu')\n"
        "engine.run(numpy.zeros((1, 32, 32, 3), numpy.uint8))\n"
        "print(sorted({'torch', 'torchvision', 'lightning_train'} & sys.modules.keys()))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert finished.stdout.strip() == "['torch']"
