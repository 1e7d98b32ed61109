"""The set-up behind every make target: what it installs, from where, and when it does nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from deploy import bootstrap
from deploy.bootstrap import BootstrapError, Project, Stamp

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = {
    "build-system": {"requires": ["setuptools"]},
    "project": {
        "name": "car-identifier",
        "optional-dependencies": {
            "client": ["requests"],
            "worker": ["numpy", "torch>=2"],
            "serve": ["car-identifier[client,worker]"],
            "dev": ["car-identifier[serve]", "jsonargparse[signatures]"],
        },
    },
    "tool": {"setuptools": {}, "ruff": {"line-length": 100}},
}


class Steps:
    """Stands in for running commands: remembers them and says which of them succeed."""

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.failing: tuple[str, ...] = ()

    def __call__(self, title: str, command: list[str], *, may_fail: bool = False) -> bool:
        line = " ".join(command)
        self.commands.append(line)
        return not any(part in line for part in self.failing)


@pytest.fixture
def steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Steps:
    """A repository in which nothing is set up, on a machine without a GPU; nothing is executed."""
    steps = Steps()
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    monkeypatch.setattr(bootstrap, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(bootstrap, "LOG", tmp_path / ".run" / "bootstrap.log")
    monkeypatch.setattr(Stamp, "path", tmp_path / ".venv" / "stamp.json")
    monkeypatch.setattr(Project, "read", lambda: Project(PYPROJECT, "torch==2.13.0\n"))
    monkeypatch.setattr(bootstrap, "step", steps)
    monkeypatch.setattr(bootstrap, "has_nvidia_gpu", lambda: False)
    monkeypatch.setattr(bootstrap, "torch_is", lambda version: False)
    monkeypatch.setattr(sys, "platform", "linux")
    return steps


@pytest.mark.parametrize("version", [(3, 10), (3, 12), (2, 7)])
def test_another_python_is_one_line_that_says_what_to_do(version: tuple[int, int]) -> None:
    with pytest.raises(BootstrapError, match=r"needs Python 3\.11.*make PYTHON=") as error:
        bootstrap.require_python(version, "/usr/bin/python3")
    assert "\n" not in str(error.value)


def test_second_time_does_nothing(steps: Steps) -> None:
    bootstrap.install("serve")
    assert steps.commands
    steps.commands.clear()
    bootstrap.install("serve")
    assert steps.commands == []


def test_role_within_an_installed_one_is_there_already(steps: Steps) -> None:
    bootstrap.install("dev")
    steps.commands.clear()
    bootstrap.install("client")
    assert steps.commands == []


def test_further_role_keeps_the_earlier_one(steps: Steps) -> None:
    bootstrap.install("client")
    bootstrap.install("worker")
    assert steps.commands[-1].endswith("-e .[client,worker] --progress-bar=off")


def test_changed_pins_install_again_and_changed_linter_settings_do_not(
    steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    bootstrap.install("client")
    steps.commands.clear()
    other_tools = {"tool": {**PYPROJECT["tool"], "ruff": {}}}
    monkeypatch.setattr(
        Project, "read", lambda: Project(PYPROJECT | other_tools, "torch==2.13.0\n")
    )
    bootstrap.install("client")
    assert steps.commands == []
    monkeypatch.setattr(Project, "read", lambda: Project(PYPROJECT, "torch==2.13.0\nsix==1.17\n"))
    bootstrap.install("client")
    assert len(steps.commands) == 1


def test_failed_install_is_tried_again(steps: Steps) -> None:
    bootstrap.install("client")
    steps.failing = ("worker",)
    with pytest.raises(BootstrapError, match="pip could not install"):
        bootstrap.install("worker")
    steps.commands.clear()
    bootstrap.install("client")
    assert steps.commands, "half an install is not taken for one"


def test_venv_of_a_moved_repository_is_made_anew(
    steps: Steps, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bootstrap.install("client")
    steps.commands.clear()
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path / "elsewhere")
    bootstrap.install("client")
    assert "-m venv --clear" in steps.commands[0]


# --- torch ------------------------------------------------------------------------------------


def torch_sources(steps: Steps) -> list[str]:
    """Where the CPU build was looked for, in order."""
    tried = [line for line in steps.commands if "torch==2.13.0+cpu" in line]
    return ["index" if bootstrap.TORCH_CPU_INDEX in line else "own" for line in tried]


def test_cpu_build_from_the_users_own_sources_is_enough(steps: Steps) -> None:
    bootstrap.install("serve")
    assert torch_sources(steps) == ["own"]


def test_cpu_index_is_next_and_must_answer_soon(steps: Steps) -> None:
    steps.failing = ("--no-deps torch==2.13.0+cpu",)
    bootstrap.install("serve")
    assert torch_sources(steps) == ["own", "index"]
    assert "--timeout 10 --retries 0" in steps.commands[2]


def test_ordinary_build_is_the_last_resort_and_said_to_be_large(
    steps: Steps, capsys: pytest.CaptureFixture[str]
) -> None:
    steps.failing = ("+cpu",)
    bootstrap.install("serve")
    assert torch_sources(steps) == ["own", "index"]
    assert "several GB" in capsys.readouterr().out
    assert steps.commands[-1].endswith("-c constraints.txt -e .[serve] --progress-bar=off")


@pytest.mark.parametrize("reason", ["nvidia gpu", "macos", "has it already", "role without torch"])
def test_cpu_build_is_not_looked_for_where_it_is_not_wanted(
    steps: Steps, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    if reason == "nvidia gpu":
        monkeypatch.setattr(bootstrap, "has_nvidia_gpu", lambda: True)
    elif reason == "macos":
        monkeypatch.setattr(sys, "platform", "darwin")
    elif reason == "has it already":
        monkeypatch.setattr(bootstrap, "torch_is", lambda version: version == "2.13.0")
    bootstrap.install("client" if reason == "role without torch" else "serve")
    assert torch_sources(steps) == []


# --- the console ------------------------------------------------------------------------------


def test_failed_step_shows_the_commands_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bootstrap, "LOG", tmp_path / "log")
    words = "no space left on this device"
    succeeded = bootstrap.step("installing", [sys.executable, "-c", f"raise OSError('{words}')"])
    assert not succeeded
    captured = capsys.readouterr()
    assert captured.out.startswith("installing … failed")
    assert words in captured.err
    assert words in (tmp_path / "log").read_text()


def test_step_that_may_fail_does_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bootstrap, "LOG", tmp_path / "log")
    failing = [sys.executable, "-c", "raise OSError"]
    assert not bootstrap.step("looking", failing, may_fail=True)
    captured = capsys.readouterr()
    assert captured.out.startswith("looking … not there")
    assert captured.err == ""


def test_unknown_role_is_told_the_known_ones() -> None:
    finished = subprocess.run(
        [sys.executable, "deploy/bootstrap.py", "everything"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 2
    assert "serve" in finished.stderr
