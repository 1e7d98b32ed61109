"""The trainer's command line: short help, and errors that name what would be right."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from toy_cars import write_class_folders
from toy_commands import ROOT, run, toy_settings, write_settings

from lightning_train.cli import main
from lightning_train.resuming import resume_command
from lightning_train.user_errors import user_message

COMMANDS = (
    "fit", "fit-within", "validate", "test", "lr-range-test", "show-augmentations", "ablation",
    "archive", "evaluate", "show-explanations", "export-weights",
)  # fmt: skip
CALLBACKS = "lightning_train.callbacks"


@pytest.fixture(scope="module")
def toy_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_class_folders(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def config(toy_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_settings(tmp_path / "toy.yaml", toy_settings(toy_root))


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a command says that refuses to start."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) <= 2, said
    return said


@pytest.mark.parametrize(
    ("option", "answer"),
    [
        ("--model.droput=0.1", "no setting model.droput: did you mean model.dropout?"),
        ("--trainer.max_epoch=1", "did you mean trainer.max_epochs?"),
        ("--model.batch_size=8", "did you mean data.batch_size?"),
        ("--modle.dropout=0", "did you mean model?"),
        ("--model.schedule.step_size_upp=2", "did you mean step_size_up?"),
        ("--model.optimizer.init_args.lrr=2", "AdamW has no setting lrr"),
        ("--model.dropout=much", "model.dropout: expected float, got much"),
        ("--trainer.max_epochs=many", "trainer.max_epochs: expected int, got many"),
        ("--trainer.logger=pytorch_lightning.loggers.CSVLoger", "loggers.CSVLogger?"),
        ("--config=gone.yaml", "gone.yaml cannot be read"),
    ],
)
def test_a_wrong_option_names_the_right_one(
    option: str, answer: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = yaml.safe_load(config.read_text())
    settings["model"]["optimizer"] = {"class_path": "AdamW", "init_args": {"lr": 0.1}}
    write_settings(config, settings)
    assert answer in refusal(capsys, "fit", "--config", config, option)


@pytest.mark.parametrize(
    ("settings", "answer"),
    [
        (
            {"data": {"batchsize": 1}},
            "data.batchsize (in wrong.yaml): did you mean data.batch_size?",
        ),
        (
            {"trainer": {"callbacks": [{"class_path": f"{CALLBACKS}.ZoomAugmentaton"}]}},
            f"trainer.callbacks[0] (in wrong.yaml): did you mean {CALLBACKS}.ZoomAugmentation?",
        ),
        (
            {"trainer": {"callbacks": [{"class_path": "lightning_train.callback.EMA"}]}},
            f"did you mean {CALLBACKS}.EMA?",
        ),
        (
            {
                "trainer": {
                    "callbacks": [
                        {"class_path": f"{CALLBACKS}.EMA"},
                        {
                            "class_path": f"{CALLBACKS}.GeometricAugmentation",
                            "init_args": {"degree": 3},
                        },
                    ]
                }
            },
            "GeometricAugmentation has no setting degree, given for trainer.callbacks[1] (in "
            "wrong.yaml): did you mean degrees?",
        ),
        (
            {"trainer": {"callbacks": [{"classpath": f"{CALLBACKS}.EMA"}]}},
            "did you mean trainer.callbacks[0].class_path?",
        ),
        ({"model": {"schedule": {"class_path": "CyclicSchedul"}}}, "did you mean CyclicSchedule?"),
        (
            {"model": {"schedule": {"class_path": "OneCycleSchedule", "init_args": {"warmup": 1}}}},
            "did you mean warmup_fraction?",
        ),
        # The class comes from the file before.
        ({"model": {"schedule": {"init_args": {"stepsize_up": 1}}}}, "did you mean step_size_up?"),
        (
            {"model": {"schedule": {"class_path": "CyclicSchedule", "init_args": {"mode": "up"}}}},
            "CyclicSchedule.mode: expected one of triangular, triangular2, exp_range, got up",
        ),
    ],
    ids=str,
)
def test_a_wrong_key_in_a_file_names_the_right_one(
    settings: dict, answer: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_settings(Path("wrong.yaml"), settings)
    assert answer in refusal(capsys, "fit", "--config", config, "--config", "wrong.yaml")


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["--model.schedule.init_args.step_size_up", "0"], "step_size_down are epochs: give more"),
        (["--model.schedule.init_args.cycles", "2"], "step_size_down, or cycles, not both"),
        (
            ["--model.distillation", "{teachers: [a.ckpt], weight: 3}"],
            "distillation: weight lies in 0…1",
        ),
        (
            ["--trainer.callbacks", f"[{{class_path: {CALLBACKS}.EMA, init_args: {{decay: 2}}}}]"],
            "decay is at least 0 and below 1",
        ),
    ],
    ids=lambda it: it if isinstance(it, str) else it[0],
)
def test_a_value_that_a_class_refuses_is_said_in_its_words(
    arguments: list[str], answer: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "--config", str(config), *arguments]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert answer in said.splitlines()[0]
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("text", "answer"),
    [("model: {dropout: 0", "wrong.yaml, line 1"), ("only words", "holds no settings")],
)
def test_a_file_that_is_no_configuration_is_named(
    text: str, answer: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("wrong.yaml").write_text(text)
    assert answer in refusal(capsys, "fit", "--config", "wrong.yaml")


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["fit"], "take a configuration (--config"),
        (["evaluat"], "no command evaluat: did you mean evaluate?"),
        (["evaluate", "--archiv", "a.mar"], "no setting archiv: did you mean archive?"),
        (["evaluate", "--data", "."], "archive must be given"),
        (["lr-range-test", "--config", "toy.yaml", "--minlr=1"], "did you mean min_lr?"),
        (["show-augmentations", "--config", "toy.yaml", "--drawz=1"], "did you mean draws?"),
        (["fit", "--config", "toy.yaml", "stray"], "stray"),
    ],
)
def test_a_wrong_command_line_says_what_is_missing_or_meant(
    arguments: list[str], answer: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert answer in refusal(capsys, *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "--data.root", "nowhere", "--model.network", "resnet18"], "nowhere"),
        (["evaluate", "--archive", "gone.mar", "--data", "nowhere"], "nowhere"),
        (["archive", "--checkpoint", "gone.ckpt", "--version", "1.1", "--data", "."], "gone.ckpt"),
        (["dance"], "usage"),
    ],
)
def test_a_wrong_command_line_is_one_clear_message(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) in (1, 2)
    assert message in capsys.readouterr().err


def test_the_process_ends_with_the_command_s_exit_code(tmp_path: Path) -> None:
    said = run("fit", "--model.droput=0.1", cwd=tmp_path, expect=2)
    assert "did you mean model.dropout?" in said
    assert len(said.strip().splitlines()) == 1


def test_a_checkpoint_that_cannot_be_resumed_is_refused_before_anything_is_trained(
    config: Path, toy_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = ("fit", "--config", config)
    assert "no checkpoint gone.ckpt" in refusal(capsys, *fit, "--ckpt_path", "gone.ckpt")

    Path("broken.ckpt").write_bytes(b"PK\3\4 half a file")
    assert "damaged" in refusal(capsys, *fit, "--ckpt_path", "broken.ckpt")

    assert main([*map(str, fit), "--trainer.max_epochs=1", "--trainer.callbacks=[]"]) == 0
    trained = next(tmp_path.rglob("last.ckpt"))
    more = write_class_folders(tmp_path / "more")
    folder = more / "train" / "Audi A5 Coupe 2012"
    folder.mkdir()
    for number in range(20):
        Image.new("RGB", (40, 40), (number, 9, 9)).save(folder / f"{number}.jpg")
    said = refusal(capsys, *fit, "--data.root", more, "--ckpt_path", trained)
    assert "knows 3 cars, the data has 4" in said
    said = refusal(capsys, *fit, "--model.network=resnet34", "--ckpt_path", trained)
    assert "is a resnet18, the settings say resnet34" in said

    weights = {key: torch.load(trained, weights_only=True)[key] for key in ("state_dict",)}
    torch.save(weights, "weights.ckpt")
    assert "--model.weights" in refusal(capsys, *fit, "--ckpt_path", "weights.ckpt")


def test_a_resumed_run_takes_the_settings_it_is_given(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = ["fit", "--config", str(config), "--trainer.callbacks=[]"]
    assert main([*fit, "--trainer.max_epochs=1", "--model.dropout=0.1"]) == 0
    trained = next(tmp_path.rglob("last.ckpt"))
    assert (
        main([*fit, "--trainer.max_epochs=2", "--model.dropout=0.3", f"--ckpt_path={trained}"]) == 0
    )
    used = yaml.safe_load((tmp_path / "runs/logs/version_1/config.yaml").read_text())
    assert used["model"]["dropout"] == 0.3
    # The newest epoch, though not a better one, and in its own run's folder.
    resumed = torch.load(tmp_path / "runs/logs/version_1/checkpoints/last.ckpt", weights_only=True)
    assert resumed["epoch"] == 1


def test_with_a_checkpoint_the_weights_to_start_from_are_not_looked_for(
    config: Path, tmp_path: Path
) -> None:
    """It replaces every one of them; they may be a download, or have moved."""
    options = ["--config", str(config), "--trainer.callbacks=[]"]
    assert main(["fit", *options, "--trainer.max_epochs=1"]) == 0
    trained = ["--ckpt_path", str(next(tmp_path.rglob("last.ckpt")))]
    moved = "--model.weights=moved.ckpt"
    assert main(["fit", *options, moved]) == 1  # of a new run they are
    assert main(["validate", *options, *trained, moved]) == 0
    assert main(["fit", *options, *trained, moved, "--trainer.max_epochs=2"]) == 0
    logs = sorted((tmp_path / "runs/logs").iterdir())
    # The record of the run still says what it was started from.
    used = yaml.safe_load((logs[-1] / "config.yaml").read_text())
    assert used["model"]["weights"] == "moved.ckpt"
    resumed = torch.load(logs[-1] / "checkpoints/last.ckpt", weights_only=True)
    assert resumed["epoch"] == 1


def test_no_checkpoint_is_written_where_none_is_wanted(config: Path, tmp_path: Path) -> None:
    options = ["--trainer.enable_checkpointing=false", "--trainer.callbacks=[]"]
    assert main(["fit", "--config", str(config), "--trainer.max_epochs=1", *options]) == 0
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_one_screen_with_an_example(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert len(said.splitlines()) < 45
    assert f"example: python -m lightning_train {command} " in said
    needed = {"show-explanations": "--photos", "export-weights": "--checkpoint"}
    assert needed.get(command, "--data") in said


def test_all_settings_can_be_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["fit", "--help-all"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert "--trainer.max_epochs" in said
    assert "--model.backbone_lr_scale" in said


def test_the_usage_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"  {command} " in said for command in COMMANDS)


def test_a_bug_keeps_its_traceback(config: Path, toy_root: Path, tmp_path: Path) -> None:
    settings = toy_settings(toy_root, {"class_path": "toy_commands.Bug"})
    said = run("fit", "--config", write_settings(config, settings), cwd=tmp_path, expect=1)
    assert "Traceback" in said
    assert "ValueError: invalid literal for int()" in said


def test_python_s_own_error_in_our_code_is_a_bug_and_no_refusal() -> None:
    for statement, module in (("a, b = [1]", "lightning_train.cli"), ("int('x')", "handler")):
        with pytest.raises(ValueError, match=r"unpack|literal") as caught:
            exec(compile(statement, "code.py", "exec"), {"__name__": module})
        assert user_message(caught.value) is None


def test_a_setting_that_the_trainer_refuses_is_one_line(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "--config", str(config), "--trainer.max_epochs=-5"]) == 1
    assert "error: `max_epochs` must be a non-negative integer" in capsys.readouterr().err


def test_the_augmentations_of_a_configuration_are_drawn(config: Path, tmp_path: Path) -> None:
    command = ["show-augmentations", "--config", str(config), "--photos", "2", "--draws", "3"]
    # As for a GPU, and from weights that need a download: neither is at hand.
    options = ["--trainer.accelerator=gpu", "--model.weights=imagenet", "--out=sheet.png"]
    assert main([*command, *options]) == 0
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 3 * 32


def test_make_runs_what_the_message_says() -> None:
    """The Makefile's `train` takes what the resume command is made of."""
    values = {"CONFIG": "my.yaml", "DATA": "my photos", "RESUME": "last.ckpt", "ARGS": "--my.arg=1"}
    command = ["make", "--dry-run", "train", *(f"{name}={value}" for name, value in values.items())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert (
        "-m lightning_train fit --config 'my.yaml' --data.root 'my photos' "
        "--ckpt_path 'last.ckpt' --my.arg=1"
    ) in " ".join(done.stdout.replace("\\\n", " ").split())


def test_the_resume_command_is_the_run_s_own(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = ["fit", "--config", "a b.yaml", "--data.root=photos", "--config", "lr.yaml"]
    started += ["--trainer.max_epochs", "-1", "--ckpt_path", "old.ckpt"]
    python = resume_command(started, "runs/new.ckpt")
    assert python == (
        "python -m lightning_train fit --config 'a b.yaml' --data.root photos "
        "--config=lr.yaml --trainer.max_epochs=-1 --ckpt_path runs/new.ckpt"
    )
    Path("Makefile").touch()
    assert resume_command(started, "runs/new.ckpt") == (
        "make train CONFIG='a b.yaml' DATA=photos RESUME=runs/new.ckpt "
        "ARGS='--config=lr.yaml --trainer.max_epochs=-1'"
    )
    monkeypatch.setitem(os.environ, "TORCHELASTIC_RUN_ID", "7")
    assert resume_command(started, "runs/new.ckpt") == (
        "the same command with --ckpt_path runs/new.ckpt"
    )
