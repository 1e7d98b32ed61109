"""Float weights as a start: of runs, deeper networks, teachers and archives."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from toy_cars import TOY_CLASSES
from toy_commands import toy_settings, write_settings
from toy_training import toy_data, toy_model, toy_trainer

from lightning_train.archive import archive
from lightning_train.classifier import CarClassifier
from lightning_train.cli import main
from lightning_train.distillation import Distillation
from lightning_train.float_weights import write_weights
from lightning_train.networks import build_network
from lightning_train.trained import load_classifier

SHARDS = [f"model-{number:05}-of-00003.safetensors" for number in (1, 2, 3)]
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def checkpoint(toy_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    pl.seed_everything(0, verbose=False)
    trainer = toy_trainer(folder, 2)
    trainer.fit(toy_model(), toy_data(toy_root))
    trainer.save_checkpoint(folder / "toy.ckpt")
    return folder / "toy.ckpt"


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> CarClassifier:
    return load_classifier(checkpoint)


@pytest.fixture(scope="module")
def sharded(model: CarClassifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded") / "weights"
    write_weights(model, folder, shard_mb=10)
    return folder


def test_the_command_writes_what_a_run_starts_from(
    checkpoint: Path,
    toy_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["export-weights", "--checkpoint", str(checkpoint), "--shard_mb", "10"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert said == "model_store/weights/resnet18: resnet18 of 3 classes, 5 files, 22.4 MB\n"
    config = str(write_settings(tmp_path / "toy.yaml", toy_settings(toy_root)))
    fit = ["fit", "--config", config, "--trainer.fast_dev_run=true"]
    assert main([*fit, "--model.weights", "model_store/weights/resnet18"]) == 0

    assert main([*fit, "--ckpt_path", "model_store/weights/resnet18"]) == 2
    said = capsys.readouterr().err
    assert "holds weights alone, no run to go on with: use --model.weights model_store" in said
    assert len(said.strip().splitlines()) == 1

    (tmp_path / "model_store/weights/resnet18" / SHARDS[1]).unlink()
    assert main([*fit, "--model.weights", "model_store/weights/resnet18"]) == 1
    said = capsys.readouterr().err
    assert f"{SHARDS[1]} is missing" in said
    assert len(said.strip().splitlines()) == 1


def test_a_run_starts_from_trunk_and_head(sharded: Path, model: CarClassifier) -> None:
    network = build_network("resnet18", 3, weights=str(sharded))
    assert torch.equal(network.head.weight, model.network.head.weight.half().float())
    stem = model.network.stages[0][0].weight
    assert torch.equal(network.stages[0][0].weight, stem.half().float())
    other = build_network("resnet18", 5, weights=str(sharded))
    assert torch.equal(other.stages[0][0].weight, stem.half().float())


@pytest.mark.parametrize("saved", ["checkpoint", "sharded"])
def test_the_head_is_taken_over_by_the_names_of_the_classes(
    saved: str,
    model: CarClassifier,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = str(request.getfixturevalue(saved))
    held = build_network("resnet18", 3, path).head
    capsys.readouterr()
    audi, bmw, ram = TOY_CLASSES
    # As many classes, but others, and in another order; and more of them.
    for names in ([bmw, audi, "Zastava Yugo 1987"], [ram, "Lada Niva 1990", bmw, audi]):
        torch.manual_seed(0)
        head = toy_model(class_names=names, weights=path).network.head
        torch.manual_seed(0)
        fresh = toy_model(class_names=names).network.head
        for row, name in enumerate(names):
            known = name in TOY_CLASSES
            expected, place = (held, TOY_CLASSES.index(name)) if known else (fresh, row)
            assert torch.equal(head.weight[row], expected.weight[place])
            assert torch.equal(head.bias[row], expected.bias[place])
        said = capsys.readouterr().out
        shared = len(names) - 1
        assert said.startswith(f"{path}: of {len(names)} classes, {shared} are known there by name")
        assert len(said.splitlines()) == 1

    same = toy_model(weights=path).network.head
    assert torch.equal(same.weight, held.weight)
    assert torch.equal(same.bias, held.bias)
    assert not torch.equal(same.weight[1], toy_model().network.head.weight[1])
    assert capsys.readouterr().out == ""


def test_weights_without_names_give_their_head_to_as_many_classes(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(checkpoint, weights_only=True)
    del content["hyper_parameters"]["class_names"]
    torch.save(content, tmp_path / "nameless.ckpt")
    capsys.readouterr()
    head = toy_model(class_names=["A", "B", "C"], weights=str(tmp_path / "nameless.ckpt"))
    assert torch.equal(head.network.head.weight, content["state_dict"]["network.head.weight"])
    assert capsys.readouterr().out == ""


def test_a_deeper_network_starts_as_the_equal_of_the_folder_s(tmp_path: Path) -> None:
    torch.manual_seed(0)
    write_weights(toy_model(network="resnet50"), tmp_path / "weights")
    small = load_classifier(tmp_path / "weights").network
    large = build_network("resnet152", 3, weights=str(tmp_path / "weights")).eval()
    assert len(large.stages[3]) == 36
    photos = torch.rand(4, 3, 64, 64)
    with torch.inference_mode():
        said = small(photos)
        assert (large(photos) - said).abs().max() < 1e-4 * said.std()


def test_a_teacher_teaches_from_a_folder(
    checkpoint: Path, sharded: Path, toy_root: Path, tmp_path: Path
) -> None:
    student = toy_model(distillation=Distillation([str(sharded)]))
    toy_trainer(tmp_path, 1).fit(student, toy_data(toy_root))
    photos = torch.rand(5, 3, 32, 32)
    from_folder, from_checkpoint = Distillation([str(sharded)]), Distillation([str(checkpoint)])
    for teacher in (from_folder, from_checkpoint):
        teacher.read(TOY_CLASSES)
    difference = from_folder.teach(photos) - from_checkpoint.teach(photos)
    assert 0 < difference.abs().max() < 1e-2


def test_an_archive_is_made_of_a_folder_and_says_of_which(
    sharded: Path, toy_root: Path, tmp_path: Path
) -> None:
    archive(sharded, "1.2", toy_root, tmp_path / "car.mar", calibration_photos=10)
    with zipfile.ZipFile(tmp_path / "car.mar") as content:
        manifest = json.loads(content.read("model.json"))
    # As `cat FOLDER/* | sha256sum` says.
    files = [sharded / name for name in ("config.json", *SHARDS, INDEX)]
    expected = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    assert manifest["provenance"]["checkpoint_sha256"] == expected
    assert manifest["network"] == "resnet18"


def test_a_class_too_few_is_found_where_the_head_is_needed(sharded: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sharded, tmp_path / "weights"))
    rename(folder, class_names=TOY_CLASSES[:2])
    with pytest.raises(ValueError, match=r"resnet18: head\.weight is \[3, 512\], not \[2, 512\]"):
        load_classifier(folder)


def test_what_is_no_start_is_named(sharded: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sharded, tmp_path / "weights"))
    with pytest.raises(ValueError, match=r"one file of several: give their folder, .*weights"):
        build_network("resnet18", 3, weights=str(folder / SHARDS[0]))
    with pytest.raises(ValueError, match=r"no weights .*gone\.safetensors"):
        build_network("resnet18", 3, weights=str(tmp_path / "gone.safetensors"))
    with pytest.raises(ValueError, match=r"holds no resnet50: .* trained with, resnet18"):
        build_network("resnet50", 3, weights=str(folder))
    rename(folder, network="resnet19")
    with pytest.raises(ValueError, match="no network 'resnet19': choose one of"):
        load_classifier(folder)
    torch.save([1], tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"list\.pth is no checkpoint, nor other weights"):
        build_network("resnet18", 3, weights=str(tmp_path / "list.pth"))


def rename(folder: Path, **changes: object) -> None:
    """Let the folder say that it holds something else."""
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
