"""A student that listens to its teachers."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from toy_training import toy_data, toy_model, toy_trainer

from lightning_train.data import CarDataModule
from lightning_train.distillation import Distillation
from lightning_train.schedules import CosineSchedule


@pytest.fixture(scope="module")
def teacher(toy_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher that has learnt the toy cars, at its own size and normalisation."""
    pl.seed_everything(0, verbose=False)
    folder = tmp_path_factory.mktemp("teacher")
    trainer = toy_trainer(folder, 10)
    model = toy_model(size=48, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    trainer.fit(model, CarDataModule(str(toy_root), size=48, batch_size=9))
    assert trainer.callback_metrics["val/top1"] == 1.0
    trainer.save_checkpoint(folder / "teacher.ckpt")
    return folder / "teacher.ckpt"


class WrongLabels(pl.Callback):
    """Every label is a lie: what is learnt is learnt from the teacher."""

    def on_train_batch_start(self, trainer: object, model: object, batch: dict, i: int) -> None:
        batch["label"] = (batch["label"] + 1) % 3


def test_a_student_learns_from_the_teacher_alone(
    toy_root: Path, tmp_path: Path, teacher: Path
) -> None:
    pl.seed_everything(1, verbose=False)
    trainer = toy_trainer(tmp_path, 12, WrongLabels())
    teachers = [str(teacher), str(teacher)]
    distillation = Distillation(teachers, weight=1.0, temperature=1.0)
    student = toy_model(distillation=distillation, schedule=CosineSchedule())
    trainer.fit(student, toy_data(toy_root))
    data = toy_data(toy_root)
    data.setup("fit")
    with torch.inference_mode():
        agreed = [
            student.eval()(batch["image"]).argmax(1) == distillation.teach(batch["image"]).argmax(1)
            for batch in data.train_dataloader()
        ]
    assert torch.cat(agreed).float().mean() > 0.9  # the teacher is far from right here


def test_the_teacher_stays_as_it_is_and_out_of_the_checkpoint(
    toy_root: Path, tmp_path: Path, teacher: Path
) -> None:
    distillation = Distillation([str(teacher)])
    student = toy_model(distillation=distillation)
    trainer = toy_trainer(tmp_path, 1)
    trainer.fit(student, toy_data(toy_root))
    trainer.save_checkpoint(tmp_path / "student.ckpt")
    (model,) = distillation._models
    before = torch.load(teacher, weights_only=True)["state_dict"]
    after = {f"network.{k}": v for k, v in model.network.state_dict().items()}
    assert all(torch.equal(value, after[key]) for key, value in before.items() if key in after)
    saved = torch.load(tmp_path / "student.ckpt", weights_only=True)["state_dict"]
    assert saved.keys() == {f"network.{key}" for key in student.network.state_dict()}


def test_the_loss_is_hintons(teacher: Path) -> None:
    names = toy_model().class_names
    distillation = Distillation([str(teacher)], weight=0.75, temperature=3)
    distillation.read(names)
    images = torch.randint(0, 255, (5, 3, 48, 48), dtype=torch.uint8)
    logits = torch.randn(5, 3)
    with torch.no_grad():
        taught = (distillation._models[0](images) / 3).softmax(1)
    student = (logits / 3).log_softmax(1)
    divergence = (taught * (taught.log() - student)).sum(1).mean()
    loss = distillation.loss(logits, images, torch.tensor(2.0))
    assert loss == pytest.approx(float(0.25 * 2.0 + 0.75 * 9 * divergence), rel=1e-5)
    # The same view whatever its size or type: the teacher brings it to its own.
    same = distillation.teach(images.float() / 255)
    assert torch.allclose(same, distillation.teach(images), atol=1e-6)
    small = torch.nn.functional.interpolate(images.float() / 255, (24, 24), mode="area")
    assert distillation.teach(small).shape == (5, 3)


def test_no_teacher_sees_more_than_the_largest_view(teacher: Path) -> None:
    seen = []
    distillation = Distillation([str(teacher)], max_size=40)
    distillation.read(toy_model().class_names)
    distillation._models[0].network.register_forward_pre_hook(
        lambda _, arguments: seen.append(arguments[0].shape[-1])
    )
    images = torch.randint(0, 255, (2, 3, 32, 32), dtype=torch.uint8)
    distillation.teach(images)
    distillation.max_size = 64  # more than the teacher was made for
    distillation.teach(images)
    assert seen == [40, 48]


def test_a_compiled_student_has_compiled_teachers(
    teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distillation = Distillation([str(teacher)])
    distillation.read(toy_model().class_names)
    images = torch.randint(0, 255, (2, 3, 48, 48), dtype=torch.uint8)
    exact = distillation.teach(images)
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: object) -> object:
        graphs.append(graph)
        return graph.forward

    compiled = partial(torch.nn.Module.compile, backend=backend)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **kw: compiled(self, **kw))
    distillation.prepare(torch.device("cpu"), compile=True)
    assert torch.allclose(distillation.teach(images), exact, atol=1e-5)
    assert graphs


def test_a_missing_teacher_is_noticed_before_photos_are_decoded(
    toy_root: Path, tmp_path: Path
) -> None:
    data = toy_data(toy_root)
    student = toy_model(distillation=Distillation([str(tmp_path / "gone.ckpt")]))
    with pytest.raises(ValueError, match=r"gone\.ckpt"):
        toy_trainer(tmp_path, 1).fit(student, data)
    assert not data._photos
    toy_trainer(tmp_path, 1).validate(student, data, verbose=False)  # which needs no teacher


def test_a_teacher_of_other_cars_is_refused(teacher: Path) -> None:
    with pytest.raises(ValueError, match="knows other classes"):
        Distillation([str(teacher)]).read(["a", "b", "c"])
    with pytest.raises(ValueError, match=r"no checkpoint .*gone\.ckpt"):
        Distillation(["gone.ckpt"]).read(["a"])
    with pytest.raises(ValueError, match="needs a teacher"):
        Distillation([])
    with pytest.raises(ValueError, match="max_size"):
        Distillation([str(teacher)], max_size=3)
