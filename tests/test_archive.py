"""From a checkpoint to an archive that answers, and its honest score."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml
from toy_cars import TOY_CLASSES, write_class_folders, write_devkit, write_other_photos
from toy_training import toy_data, toy_model, toy_trainer

from handler import torch_engine
from handler.archive import extract_archive, read_arrays
from handler.errors import ArchiveError
from handler.identifier import CarIdentifier
from handler.known import SCORES
from lightning_train.archive import archive
from lightning_train.callbacks import ZoomAugmentation
from lightning_train.data import DatasetError, load_crop, read_dataset
from lightning_train.evaluation.evaluate import evaluate, examine_images
from lightning_train.evaluation.photo_sets import PhotoSets
from lightning_train.export import float_logits
from lightning_train.run_history import own_records, read_runs
from lightning_train.trained import load_classifier

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def toy_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_devkit(tmp_path_factory.mktemp("toy"), per_class=40)
    write_devkit(root, per_class=4, split="test")
    write_other_photos(root / "not_cars", 40)
    return root


@pytest.fixture(scope="module")
def checkpoint(toy_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    pl.seed_everything(0, verbose=False)
    trainer = toy_trainer(folder, 6, ZoomAugmentation({0: 32}))
    trainer.fit(toy_model(), toy_data(toy_root))
    trainer.save_checkpoint(folder / "toy.ckpt")
    return folder / "toy.ckpt"


def write_run(folder: Path) -> Path:
    """A log folder with the record of a run."""
    folder.mkdir(parents=True)
    run = {
        "network": "resnet18", "device": "1 × cpu (toy)", "epochs": 6, "minutes": 12.3,
        "photos_per_second": 4321.5, "sizes": [16, 32], "last": {"val_top1": 0.9876},
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def mar(checkpoint: Path, toy_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("store") / "car_identifier.mar"
    recipe = ROOT / "lightning_train/configs/efficientnet_lite0_cpu.yaml"
    runs = [write_run(out.parent / "1_small"), write_run(out.parent / "2_large/logs/version_3")]
    archive(checkpoint, "2.5", toy_root, out, recipe, runs, calibration_photos=20, scenes=48)
    return out


@pytest.fixture(scope="module")
def torch_mar(checkpoint: Path, toy_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("torch_store") / "car_identifier.mar"
    archive(checkpoint, "2.5", toy_root, out, engine="torch", scenes=48)
    return out


@pytest.fixture(params=["mar", "torch_mar"])
def either_mar(request: pytest.FixtureRequest) -> Path:
    """An archive of each engine."""
    mar: Path = request.getfixturevalue(request.param)
    return mar


def test_the_archive_answers_like_its_checkpoint(
    either_mar: Path, checkpoint: Path, toy_root: Path
) -> None:
    sample = read_dataset(toy_root, "val").samples[0]
    model = load_classifier(checkpoint)
    with extract_archive(either_mar) as directory:
        identifier = CarIdentifier.from_directory(directory)
        [look] = examine_images(identifier, [load_crop(sample, 32)], closer=False)
    logits = look.logits
    pixels = identifier.manifest.preprocessing(load_crop(sample, 32))
    expected = float_logits(model, np.stack([pixels]))[0]
    assert np.abs(logits - expected).max() < 0.1 * expected.std() + 0.05
    assert identifier.labels[int(logits.argmax())].label == TOY_CLASSES[sample.class_id]


def test_the_archives_class_weights_make_maps_that_average_to_the_logits(
    either_mar: Path, checkpoint: Path, toy_root: Path
) -> None:
    bias = load_classifier(checkpoint).network.head.bias.detach().numpy()
    samples = read_dataset(toy_root, "val").samples
    with extract_archive(either_mar) as directory:
        (weights,) = read_arrays(directory / "classifier.npz", "weights")
        identifier = CarIdentifier.from_directory(directory)
        crops = [load_crop(sample, 32) for sample in samples]
        looks = examine_images(identifier, crops, closer=False)
    assert (weights.dtype, weights.shape) == (np.float16, (3, 512))
    logits = np.stack([look.logits for look in looks])
    feature_maps = np.stack([look.feature_map for look in looks])
    maps = np.einsum("cf,nfhw->nchw", weights.astype(np.float32), feature_maps)
    tolerance = 0.05 * float(logits.std())  # the 8-bit engine rounds the head's weights too
    assert maps.mean(axis=(2, 3)) + bias == pytest.approx(logits, abs=tolerance)


def test_the_archive_says_what_it_is_and_what_quantisation_cost(mar: Path) -> None:
    with zipfile.ZipFile(mar) as content:
        manifest = json.loads(content.read("model.json"))
        torchserve = json.loads(content.read("MAR-INF/MANIFEST.json"))
    assert torchserve["model"]["modelName"] == "car_identifier"
    assert torchserve["model"]["modelVersion"] == manifest["version"] == "2.5"
    validation = manifest["metrics"]["validation"]
    assert validation["float"]["photos"] == validation["int8"]["photos"] == 12
    difference = validation["int8"]["top1"] - validation["float"]["top1"]
    assert manifest["metrics"]["int8_minus_float_top1"] == pytest.approx(difference)


def test_the_archives_weights_are_8_bit(mar: Path) -> None:
    with zipfile.ZipFile(mar) as content:
        assert b'element_type="i8"' in content.read("model.xml")
        weights = content.getinfo("model.bin").file_size
    assert 11e6 < weights < 13e6  # ResNet-18 has 11.2 million of them


def test_a_torch_archive_holds_half_precision_and_asks_for_a_gpu(
    mar: Path, torch_mar: Path
) -> None:
    with zipfile.ZipFile(torch_mar) as content:
        manifest = json.loads(content.read("model.json"))
        program = content.getinfo("model.pt2").file_size
        torchserve = json.loads(content.read("MAR-INF/MANIFEST.json"))
    assert manifest["engine"] == "torch"
    assert torchserve["model"]["serializedFile"] == "model.pt2"
    assert 22e6 < program < 24e6  # two bytes for each of ResNet-18's 11.2 million weights
    devices = []
    for path in (mar, torch_mar):
        with zipfile.ZipFile(path) as content:
            devices.append(yaml.safe_load(content.read("model-config.yaml"))["deviceType"])
    assert devices == ["cpu", "gpu"]


def test_a_torch_archives_figures_are_those_of_its_engine(torch_mar: Path) -> None:
    with zipfile.ZipFile(torch_mar) as content:
        metrics = json.loads(content.read("model.json"))["metrics"]
    precision, answered = metrics["validation"]
    assert answered == "as answered"
    assert precision == ("bfloat16" if torch.cuda.is_available() else "float32")
    assert metrics["validation"][precision]["photos"] == 12
    card = torch_mar.with_suffix(".md").read_text()
    assert f"computing in {precision}" in card
    assert "8-bit" not in card


def test_a_torch_archive_built_on_a_cpu_passes_its_self_check_in_bfloat16(
    torch_mar: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_engine, "_fast_dtype", lambda _: torch.bfloat16)
    with extract_archive(torch_mar) as directory:
        CarIdentifier.from_directory(directory)


def test_a_torch_archive_answers_without_torchvision(torch_mar: Path, toy_root: Path) -> None:
    photo = read_dataset(toy_root, "test").samples[0].path
    code = (
        "import sys, handler.__main__ as command\n"
        f"status = command.main([{str(photo)!r}, '--archive', {str(torch_mar)!r}])\n"
        "print(status, 'torch' in sys.modules, 'torchvision' in sys.modules)"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    answer, modules = finished.stdout.splitlines()
    assert json.loads(answer)["verdict"] in ("identified", "uncertain", "not_a_car")
    assert modules == "0 True False"


def test_one_flipped_byte_is_found_before_anything_is_loaded(mar: Path, tmp_path: Path) -> None:
    content = bytearray(mar.read_bytes())
    content[len(content) // 2] ^= 0xFF
    damaged = tmp_path / "damaged.mar"
    damaged.write_bytes(content)
    with pytest.raises(ArchiveError, match="no complete archive"), extract_archive(damaged):
        pass


@pytest.mark.parametrize(
    ("fixture", "part"),
    [
        ("mar", "model.bin"),
        ("torch_mar", "model.pt2"),
        ("mar", "selfcheck.npz"),
        ("mar", "labels.csv"),
        ("mar", "model.json"),
    ],
)
def test_an_archive_with_a_wrong_part_is_refused_at_start(
    fixture: str, part: str, request: pytest.FixtureRequest
) -> None:
    with extract_archive(request.getfixturevalue(fixture)) as directory:
        content = (directory / part).read_bytes()
        half = len(content) // 2
        (directory / part).write_bytes(content[:half] + bytes(len(content) - half))
        with pytest.raises(ArchiveError):
            CarIdentifier.from_directory(directory)


def test_evaluation_prints_and_writes_the_figures(
    mar: Path, toy_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report"
    evaluate(mar, toy_root, "val", report)
    printed = capsys.readouterr().out
    content = json.loads((report / "metrics.json").read_text())
    figures = content["figures"]
    assert figures["photos"] == 12
    assert figures["top1"] == figures["make"] == figures["make_model"] == 1.0
    for word in ("top-1", "top-5", "make + model", "100.00 %", "int8 - float"):
        assert word in printed
    with zipfile.ZipFile(mar) as archived:
        manifest = json.loads(archived.read("model.json"))
    # The archive's own temperature, not one fitted on what is being scored.
    assert content["temperature"]["value"] == manifest["calibration"]["temperature"]
    assert (content["archive"], content["version"]) == (str(mar), "2.5")
    assert [row["training_photos"] for row in content["classes"]] == [36, 36, 36]
    assert {path.name for path in report.glob("*.png")} == {"reliability.png", "class_size.png"}
    page = (report / "index.html").read_text()
    for word in ("resnet18", "2.5", "AUROC, car score", "All 12 photos were named rightly"):
        assert word in page


def test_a_file_in_place_of_the_report_is_named_before_the_work(
    mar: Path, toy_root: Path, tmp_path: Path
) -> None:
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(ValueError, match=r"report\.json is a file"):
        evaluate(mar, toy_root, "val", tmp_path / "report.json")


def test_evaluation_takes_the_official_test_split_of_another_root(
    mar: Path, tmp_path: Path
) -> None:
    root = write_devkit(tmp_path / "other", per_class=4, split="test")
    assert evaluate(mar, root, "test", tmp_path / "report")["figures"]["photos"] == 12


def test_evaluation_maps_class_folders_onto_the_archives_classes(mar: Path, tmp_path: Path) -> None:
    root = write_class_folders(tmp_path / "folders", per_class=4, split="test")
    shutil.rmtree(root / "test" / TOY_CLASSES[0])  # the others' ids in this folder move up
    assert evaluate(mar, root, "test", tmp_path / "report")["figures"]["top1"] == 1.0
    (root / "test" / "Zastava Yugo Hatchback 1987").mkdir()
    with pytest.raises(DatasetError, match=r"does not know.*Zastava"):
        evaluate(mar, root, "test", tmp_path / "report")


def test_a_file_that_is_no_photo_is_named(mar: Path, toy_root: Path, tmp_path: Path) -> None:
    shutil.copytree(toy_root / "stanford_cars", tmp_path / "stanford_cars")
    (tmp_path / "not_cars").mkdir()
    (tmp_path / "not_cars" / "notes.txt").write_text("not looked at")
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "not_cars" / name).write_text("no photo")
    with pytest.raises(DatasetError, match=r"b\.jpg cannot be read"):
        evaluate(mar, tmp_path, "val", tmp_path / "report")


def test_what_is_no_car_is_told_from_cars_on_photos_that_nothing_was_fitted_to(
    mar: Path, toy_root: Path, tmp_path: Path
) -> None:
    result = evaluate(mar, toy_root, "test", tmp_path / "report")
    not_cars = result["outside"]["not_cars"]
    parts = {part: PhotoSets(toy_root, 32).others("not_cars", part) for part in ("fit", "measure")}
    assert not_cars["photos"] == len(parts["measure"]) == 40 - len(parts["fit"])
    assert not set(parts["fit"]) & set(parts["measure"])
    assert not_cars["not_a_car"] > 0.9
    assert result["figures"]["not_a_car"] < 0.1
    assert not_cars["auroc_car_score"] > 0.95


def test_without_photos_of_other_things_everything_is_a_car(
    checkpoint: Path, toy_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(toy_root / "stanford_cars", tmp_path / "stanford_cars")
    archive(checkpoint, "2.6", tmp_path, tmp_path / "plain.mar", calibration_photos=10)
    figures = evaluate(tmp_path / "plain.mar", toy_root, "val", tmp_path / "report")
    assert figures["outside"]["not_cars"]["not_a_car"] == 0
    card = (tmp_path / "plain.md").read_text()
    assert "not_cars" not in card
    # And of twelve validation photos no threshold can promise much.
    assert "warning: Only 12 of 12 validation photos are answered" in capsys.readouterr().out
    assert "little more than a guess" in card


def test_the_model_card_says_what_was_measured_and_how_it_was_made(mar: Path) -> None:
    card = mar.with_suffix(".md").read_text()
    for said in ("# car_identifier 2.5", "top-1", "seed_everything: 1", "AUROC, car score"):
        assert said in card


def test_scores_and_scenes_that_were_measured_are_in_archive_and_card(mar: Path) -> None:
    with zipfile.ZipFile(mar) as content:
        manifest = json.loads(content.read("model.json"))
        assert "car_locator.npz" in content.namelist()
    scores = manifest["metrics"]["known_scores"]
    assert set(scores) == set(SCORES)
    assert manifest["verdict"]["score"] in scores
    assert manifest["verdict"]["stricter_if_found"] >= 0
    metrics = manifest["metrics"]
    assert set(metrics["cross_fitted"]) == set(metrics["honesty"])
    scenes = metrics["scenes"]
    assert len(scenes) == 5
    for figures in scenes.values():
        assert figures["photos"] == 12
        assert 1 <= figures["looks"] <= 3
    card = mar.with_suffix(".md").read_text()
    for said in ("negative_entropy", "cross-fitted", "car fills 35% of the width"):
        assert said in card


def test_a_data_set_of_other_classes_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    root = write_class_folders(tmp_path / "folders", per_class=4)
    (root / "train" / TOY_CLASSES[0]).rename(root / "train" / "Zastava Yugo Hatchback 1987")
    with pytest.raises(ValueError, match="other classes"):
        archive(checkpoint, "2.5", root, tmp_path / "x.mar")
    assert not (tmp_path / "x.mar").exists()


def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path, toy_root: Path) -> None:
    path = tmp_path / "broken.ckpt"
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"broken\.ckpt is no checkpoint"):
        archive(path, "2.5", toy_root, tmp_path / "x.mar")


def test_the_model_card_tells_of_the_runs_that_led_to_it(mar: Path) -> None:
    card = mar.with_suffix(".md").read_text(encoding="utf-8")
    row = "resnet18 | 16 → 32 | 6 | 12 | 4,322 | 1 × cpu (toy) | 98.76 % |"
    assert f"| 1_small | {row}\n| 2_large | {row}\n" in card
    with zipfile.ZipFile(mar) as content:
        provenance = json.loads(content.read("model.json"))["provenance"]
    assert [run["run"] for run in provenance["runs"]] == ["1_small", "2_large"]


def test_a_run_without_a_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no .*run\.json"):
        read_runs([tmp_path])
    (tmp_path / "run.json").write_text('{"network": "resnet18"}')
    with pytest.raises(ValueError, match="is no record of a run"):
        read_runs([tmp_path / "run.json"])


def test_the_checkpoints_own_records_are_found_in_its_log_folder(tmp_path: Path) -> None:
    logs = tmp_path / "run/logs/version_0"
    checkpoint = logs / "checkpoints/best.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    assert own_records(checkpoint) == (None, [])
    write_run(tmp_path / "other").joinpath("run.json").rename(logs / "run.json")
    (logs / "config.yaml").touch()
    assert own_records(checkpoint) == (logs / "config.yaml", [logs])
    weights = logs / "report/weights"
    weights.mkdir(parents=True)
    assert own_records(weights) == (None, []), "float weights may be of several runs"


def test_a_version_that_could_not_be_served_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="v2"):
        archive(tmp_path / "no.ckpt", "v2", tmp_path, tmp_path / "x.mar")
