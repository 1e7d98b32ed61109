"""A trained network as a folder of safetensors, and what can start from it."""

from __future__ import annotations

import errno
import json
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy_cars import TOY_CLASSES
from toy_training import toy_model

from lightning_train import float_weights
from lightning_train.classifier import CarClassifier
from lightning_train.float_weights import read_weights, weight_files, write_weights
from lightning_train.networks import build_network
from lightning_train.trained import load_classifier
from lightning_train.user_errors import user_message

INDEX = "model.safetensors.index.json"
SHARDS = [f"model-{number:05}-of-00003.safetensors" for number in (1, 2, 3)]


def some_steps(name: str, **changes: object) -> CarClassifier:
    """A network of the real size that has learnt for some steps: norms have statistics."""
    torch.manual_seed(0)
    model = toy_model(network=name, **changes)
    photos = torch.rand(6, 3, 64, 64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(3):
        loss = torch.nn.functional.cross_entropy(model(photos), torch.arange(6) % 3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def model() -> CarClassifier:
    return some_steps("resnet18", mean=(0.5, 0.4, 0.3))


@pytest.fixture(scope="module")
def written(model: CarClassifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet-18's folder, in one file of 22 MB."""
    folder = tmp_path_factory.mktemp("written") / "weights"
    write_weights(model, folder)
    return folder


@pytest.fixture(scope="module")
def sharded(model: CarClassifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded") / "weights"
    write_weights(model, folder, shard_mb=10)
    return folder


@pytest.fixture
def whole(written: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(written, tmp_path / "whole"))


@pytest.fixture
def parts(sharded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sharded, tmp_path / "parts"))


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# --- the format -------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["written", "sharded"])
def test_what_is_written_is_read_to_the_precision_of_each_kind(
    folder: str, model: CarClassifier, request: pytest.FixtureRequest
) -> None:
    saved = read_weights(request.getfixturevalue(folder))
    state = model.network.state_dict()
    assert saved.state.keys() == state.keys()
    for key, value in state.items():
        again = saved.state[key]
        if value.ndim > 1:
            assert again.dtype == torch.float32
            assert torch.equal(again, value.half().float()), key
        else:
            assert again.dtype == value.dtype
            assert torch.equal(again, value), key
    assert saved.settings == {
        "network": "resnet18",
        "class_names": TOY_CLASSES,
        "size": 32,
        "mean": [0.5, 0.4, 0.3],
        "std": [0.229, 0.224, 0.225],
    }


def test_the_files_are_those_of_hugging_face_s_layout(written: Path, sharded: Path) -> None:
    assert {file.name for file in written.iterdir()} == {"config.json", "model.safetensors"}
    assert {file.name for file in sharded.iterdir()} == {"config.json", INDEX, *SHARDS}
    index = json.loads((sharded / INDEX).read_text())
    tensors = {name: load_file(sharded / name) for name in SHARDS}
    assert index["weight_map"] == {key: name for name, it in tensors.items() for key in it}
    sizes = [sum(tensor.nbytes for tensor in it.values()) for it in tensors.values()]
    assert index["metadata"]["total_size"] == sum(sizes)
    assert max(sizes) <= 10e6
    config = json.loads((sharded / "config.json").read_text())
    assert config["format_version"] == 1
    for file in sharded.iterdir():  # whoever may read the checkpoint may read this
        assert file.stat().st_mode & stat.S_IRGRP


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_half_precision_moves_a_resnet_s_logits_by_little(name: str, tmp_path: Path) -> None:
    model = some_steps(name)
    write_weights(model, tmp_path / "weights")
    again = load_classifier(tmp_path / "weights")
    photos = torch.rand(16, 3, 64, 64)
    with torch.inference_mode():
        before, after = model(photos), again(photos)
    moved = ((after - before).std() / before.std()).item()
    assert 0 < moved < 2e-3


def test_a_resnet_152_makes_two_files_that_a_git_host_takes(tmp_path: Path) -> None:
    names = [f"Make Model{number} Sedan 2012" for number in range(196)]
    write_weights(CarClassifier("resnet152", names, weights=None), tmp_path / "weights")
    shards = sorted((tmp_path / "weights").glob("*.safetensors"))
    assert [shard.name for shard in shards] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]
    sizes = [shard.stat().st_size for shard in shards]
    assert max(sizes) < 95e6
    assert 115e6 < sum(sizes) < 120e6  # two bytes for each of 58.5 million weights
    network = build_network("resnet152", 196, weights=str(tmp_path / "weights"))
    assert len(network.stages[3]) == 36


@pytest.mark.parametrize("start", ["", INDEX])
def test_the_folder_and_its_index_are_the_same(start: str, sharded: Path) -> None:
    assert weight_files(sharded / start) == sorted(sharded.iterdir())
    assert read_weights(sharded / start).state.keys() == read_weights(sharded).state.keys()


def test_a_single_file_is_read_whatever_its_name(whole: Path) -> None:
    (whole / "model.safetensors").rename(whole / "cars.safetensors")
    files = [whole / "cars.safetensors", whole / "config.json"]
    assert weight_files(files[0]) == files
    assert load_classifier(files[0]).class_names == TOY_CLASSES


# --- writing ----------------------------------------------------------------------------------


def test_weights_are_replaced_and_leave_nothing_behind(whole: Path, model: CarClassifier) -> None:
    write_weights(model, whole, shard_mb=10)
    assert {file.name for file in whole.iterdir()} == {"config.json", INDEX, *SHARDS}
    assert list(whole.parent.iterdir()) == [whole]


@pytest.mark.parametrize("there_already", [True, False])
def test_what_cannot_be_written_whole_is_not_there_at_all(
    there_already: bool, whole: Path, model: CarClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = whole if there_already else whole.parent / "new"
    before = [(file.name, file.read_bytes()) for file in sorted(whole.iterdir())]
    written: list[object] = []

    def full(tensors: Any, metadata: Any) -> bytes:
        if written:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(tensors)
        return b"the first file"

    monkeypatch.setattr(float_weights, "save", full)
    with pytest.raises(OSError, match="No space"):
        write_weights(model, folder, shard_mb=10)
    assert written
    assert list(whole.parent.iterdir()) == [whole]
    assert [(file.name, file.read_bytes()) for file in sorted(whole.iterdir())] == before


def test_the_old_weights_stay_if_the_new_ones_cannot_take_their_place(
    whole: Path, model: CarClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def fail_second(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise PermissionError(errno.EPERM, "not allowed", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_second)
    with pytest.raises(PermissionError):
        write_weights(model, whole, shard_mb=10)
    assert list(whole.parent.iterdir()) == [whole]
    assert (whole / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"notes.txt": "mine"}, "holds no weights of this trainer: name a new folder"),
        # Another library's model.
        ({"config.json": "{}", "model.safetensors": ""}, "holds no weights of this trainer"),
        (
            {"config.json": '{"format_version": 1}', "notes.txt": "mine"},
            r"holds notes\.txt beside its weights: move that elsewhere",
        ),
    ],
)
def test_a_folder_of_something_else_is_not_replaced(
    content: dict[str, str], message: str, model: CarClassifier, tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, text in content.items():
        (folder / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        write_weights(model, folder)
    assert {file.name for file in folder.iterdir()} == set(content)


def test_a_file_is_not_replaced_and_an_empty_folder_is_filled(
    model: CarClassifier, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="is a file: name a folder"):
        write_weights(model, tmp_path / "file")
    (tmp_path / "empty").mkdir()
    write_weights(model, tmp_path / "empty")
    assert read_weights(tmp_path / "empty").settings["network"] == "resnet18"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("head.weight", 7e4, r"head\.weight goes up to 7e\+04, which float16 cannot hold"),
        ("head.bias", torch.nan, r"head\.bias goes up to nan, which float32 cannot hold"),
    ],
)
def test_values_that_cannot_be_kept_are_refused(
    key: str, value: float, message: str, tmp_path: Path
) -> None:
    model = toy_model()
    model.network.state_dict()[key].view(-1)[0] = value
    with pytest.raises(ValueError, match=f"{message}: such a network has diverged"):
        write_weights(model, tmp_path / "weights")
    assert not list(tmp_path.iterdir())


def test_a_large_variance_is_kept(tmp_path: Path) -> None:
    model = toy_model()
    variance = model.network.stages[0][1].running_var
    variance[0], variance[1] = 1e6, 1e-9  # float16 has neither
    write_weights(model, tmp_path / "weights")
    assert torch.equal(read_weights(tmp_path / "weights").state["stages.0.1.running_var"], variance)


def test_a_size_that_no_file_can_have_is_refused(model: CarClassifier, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"shard_mb 4 is too small: .* alone takes 4\.7 MB"):
        write_weights(model, tmp_path / "weights", shard_mb=4)


# --- what is refused --------------------------------------------------------------------------


def rewrite(file: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def place(folder: Path, name: object) -> None:
    """Say that one tensor is in this file."""
    places = json.loads((folder / INDEX).read_text())["weight_map"]
    change_json(folder / INDEX, weight_map=places | {"head.bias": name})


SPOILT_WHOLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda it: (it / "config.json").unlink(), r"config\.json is missing, which says"),
    "no JSON": (lambda it: (it / "config.json").write_text("{"), r"config\.json is damaged \("),
    "no object": (lambda it: (it / "config.json").write_text("[]"), "damaged .it holds no object"),
    "newer": (
        lambda it: change_json(it / "config.json", format_version=2),
        r"config\.json has the format_version 2, this trainer reads 1",
    ),
    "another library's": (
        lambda it: change_json(it / "config.json", format_version=None),
        "has the format_version None",
    ),
    "no classes": (
        lambda it: change_json(it / "config.json", class_names=[]),
        r"config\.json: class_names is missing or wrong \(\[\]\)",
    ),
    "a wrong mean": (
        lambda it: change_json(it / "config.json", mean=[0.5, 0.5]),
        "mean is missing or wrong",
    ),
    "a size in words": (
        lambda it: change_json(it / "config.json", size="224"),
        "size is missing or wrong",
    ),
    "no weights": (
        lambda it: (it / "model.safetensors").unlink(),
        r"holds no weights: neither model\.safetensors nor",
    ),
    "two sets": (lambda it: (it / INDEX).write_text("{}"), r"holds both .*delete the wrong one"),
    "cut off": (
        lambda it: truncate(it / "model.safetensors"),
        r"model\.safetensors is damaged \(.*\): copy it again",
    ),
    "Git LFS's pointer": (
        lambda it: (it / "model.safetensors").write_text("version https://git-lfs.github.com"),
        r"model\.safetensors is damaged",
    ),
    "a tensor missing": (
        lambda it: rewrite(it / "model.safetensors", lambda t: t.pop("stages.1.0.conv1.weight")),
        r"no whole resnet18: stages\.1\.0\.conv1\.weight is missing",
    ),
    "a tensor too many": (
        lambda it: rewrite(it / "model.safetensors", lambda t: t.update(more=torch.zeros(1))),
        "no whole resnet18: more is superfluous",
    ),
    "another shape": (
        lambda it: rewrite(
            it / "model.safetensors", lambda t: t.update({"stages.0.1.bias": torch.zeros(9)})
        ),
        r"no whole resnet18: stages\.0\.1\.bias is \[9\], not \[64\]",
    ),
}  # fmt: skip
SPOILT_PARTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a part missing": (
        lambda it: (it / SHARDS[1]).unlink(),
        f"{SHARDS[1]} is missing: copy all files",
    ),
    "a part cut off": (lambda it: truncate(it / SHARDS[2]), f"{SHARDS[2]} is damaged"),
    "no index": (lambda it: (it / INDEX).unlink(), "holds no weights: neither"),
    "no weight_map": (
        lambda it: (it / INDEX).write_text('{"metadata": {}}'),
        "is no index of weights: it has no weight_map",
    ),
    "a tensor missing": (
        lambda it: rewrite(it / SHARDS[2], lambda tensors: tensors.pop("head.bias")),
        rf"{SHARDS[2]} lacks head\.bias, which model\.safetensors\.index\.json says it holds",
    ),
    "a tensor too many": (
        lambda it: rewrite(it / SHARDS[2], lambda tensors: tensors.update(more=torch.zeros(1))),
        f"{SHARDS[2]} holds more, of which",
    ),
    "a place outside": (lambda it: place(it, "../other.safetensors"), "places head.bias in '../"),
    "an absolute place": (lambda it: place(it, "/etc/x.safetensors"), "places head.bias in '/etc"),
    "no place": (lambda it: place(it, ["model.safetensors"]), "no .safetensors file of its own"),
    "no weights there": (lambda it: place(it, "config.json"), "no .safetensors file of its own"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("fixture", "spoil", "message"),
    [
        *(pytest.param("whole", *it, id=f"whole, {name}") for name, it in SPOILT_WHOLE.items()),
        *(pytest.param("parts", *it, id=f"parts, {name}") for name, it in SPOILT_PARTS.items()),
    ],
)
def test_spoilt_weights_are_refused_in_a_line_that_says_what_is_wrong(
    fixture: str,
    spoil: Callable[[Path], object],
    message: str,
    request: pytest.FixtureRequest,
) -> None:
    folder = request.getfixturevalue(fixture)
    spoil(folder)
    for start in (
        lambda: load_classifier(folder),
        lambda: build_network("resnet18", 3, weights=str(folder)),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            start()
        said = user_message(caught.value)
        assert said is not None, "it would be a traceback"
        assert len(said.splitlines()) == 1
