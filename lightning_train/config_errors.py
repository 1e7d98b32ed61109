"""What is wrong with the settings of a run, in a line that names the right one.

jsonargparse knows that something is wrong, but says so in the terms of its type checks, a page long
for a typo in a callback. So once it has refused, the given settings are walked through again here,
against the parser's own keys and the signatures of the classes that they name.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

__all__ = ["SettingsError", "explain"]

# Where the classes of a configuration come from: searched for one that a wrong path may mean.
_CLASS_MODULES = (
    "lightning_train.callbacks",
    "lightning_train.schedules",
    "lightning_train.losses",
    "lightning_train.distillation",
    "pytorch_lightning.callbacks",
    "pytorch_lightning.loggers",
    "torch.optim",
)
_CLASS_PATH = re.compile(r"[a-z]\w*(\.\w+)*\.[A-Z]\w*")
_CLASS_KEYS = ("class_path", "init_args", "dict_kwargs")


class SettingsError(ValueError):
    """The settings cannot be used; the message names the setting and, if it can, the right one."""


def explain(parser: ArgumentParser, arguments: Sequence[str], refusal: str) -> str:
    """Say in a line or two what is wrong with a command line that a parser has refused.

    Args:
        parser: of the command.
        arguments: the command line, without the command.
        refusal: the parser's own words, for what is not found by walking.
    """
    walk = _Walk({action.dest for action in parser._actions if action.option_strings})
    for source, settings in _given(arguments):
        if isinstance(settings, str):
            return settings
        for problem in walk.problems(settings):
            return problem.replace("{in}", f" (in {source})" if source else "")
    return _shortened(refusal)


def _given(arguments: Sequence[str]) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """Settings in the order in which they hold, with the file they come from ("": no file).

    A file that cannot be read comes as the words for that.
    """
    waiting = list(arguments)
    while waiting:
        name, has_value, value = waiting.pop(0).partition("=")
        if not name.startswith("-"):
            continue
        if not has_value:
            value = waiting.pop(0) if waiting and not waiting[0].startswith("--") else "true"
        if name in ("-c", "--config"):
            yield value, _file(value)
        elif not name.endswith(".help"):
            settings: Any = _yaml(value)
            for key in reversed(name.lstrip("-").rstrip("+").split(".")):
                settings = {key: settings}
            yield "", settings


def _file(name: str) -> dict[str, Any] | str:
    try:
        settings = yaml.safe_load(Path(name).read_text(encoding="utf-8"))
    except OSError as error:
        return f"--config {name} cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        return f"--config {name} is no YAML file"
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        return f"{name}{where}: no valid YAML ({getattr(error, 'problem', error)})"
    if not isinstance(settings, dict):
        return f"{name} holds no settings: write them as in lightning_train/configs/"
    return settings


def _yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


@dataclass
class _Walk:
    """Finds settings that there are not.

    Attributes:
        known: the parser's keys, e.g. "model.dropout".
        classes: class of a setting as given so far, by its key: later files and options may
            change its arguments without naming it again.
    """

    known: set[str]
    classes: dict[str, type] = field(default_factory=dict)

    def problems(self, settings: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
        for name, value in settings.items():
            key = f"{prefix}{name}"
            if any(other.startswith(f"{key}.") and other != f"{key}.help" for other in self.known):
                if isinstance(value, Mapping):
                    yield from self.problems(value, f"{key}.")
            elif key in self.known:
                yield from self._value_problems(key, value)
            else:
                yield f"no setting {key}{{in}}{self._instead(key, prefix)}"

    def _instead(self, key: str, prefix: str) -> str:
        """The setting that was meant: one beside it, or one of that name elsewhere."""
        beside = sorted(
            {other[len(prefix) :].partition(".")[0] for other in self.known if
             other.startswith(prefix) and not other.endswith(".help")}
        )  # fmt: skip
        name = key.removeprefix(prefix)
        elsewhere = [other for other in self.known if other.rpartition(".")[2] == name]
        if nearest := _closest(name, beside):
            return f": did you mean {prefix}{nearest}?"
        if elsewhere:
            return f": did you mean {min(elsewhere)}?"
        return f": there are {prefix}{f', {prefix}'.join(beside[:20])}"

    def _value_problems(self, key: str, value: Any) -> Iterator[str]:
        if isinstance(value, str) and _CLASS_PATH.fullmatch(value):
            yield from self._class_problems(key, {"class_path": value})
        elif isinstance(value, list):
            for number, item in enumerate(value):
                yield from self._value_problems(f"{key}[{number}]", item)
        elif isinstance(value, Mapping) and (key in self.classes or self._means_a_class(value)):
            yield from self._class_problems(key, value)

    def _means_a_class(self, value: Mapping[Any, Any]) -> bool:
        return any(get_close_matches(str(name), _CLASS_KEYS[:2], 1, 0.75) for name in value)

    def _class_problems(self, key: str, value: Mapping[Any, Any]) -> Iterator[str]:
        named = any(name in value for name in _CLASS_KEYS)
        for name in value:
            close = get_close_matches(str(name), _CLASS_KEYS, 1, 0.75)
            if name not in _CLASS_KEYS and (named or close):
                meant = f": did you mean {key}.{close[0]}?" if close else ": put it into init_args"
                yield f"no setting {key}.{name}{{in}}{meant}"
        path = value.get("class_path")
        if isinstance(path, str):
            found = _load(path)
            if found is None:
                yield f"no class {path} for {key}{{in}}{_meant_class(path)}"
            if found is None:
                return
            self.classes[key] = found
        if key not in self.classes:
            return
        chosen = self.classes[key]
        # Without class_path and init_args the arguments themselves may be given.
        arguments = value.get("init_args") if named else value
        if not isinstance(arguments, Mapping):
            return
        allowed = _parameters(chosen)
        for name, item in arguments.items():
            if allowed is not None and name not in allowed:
                nearest = _closest(str(name), allowed)
                names = ", ".join(allowed)
                meant = f": did you mean {nearest}?" if nearest else f": it has {names}"
                yield f"{chosen.__name__} has no setting {name}, given for {key}{{in}}{meant}"
            else:
                yield from self._value_problems(f"{key}.init_args.{name}", item)


def _closest(name: str, names: Sequence[str]) -> str | None:
    """The name that was meant: misspelt, or cut short."""
    longer = [other for other in names if len(name) > 3 and name in other]
    return next(iter(get_close_matches(name, names, 1) or longer), None)


def _load(path: str) -> type | None:
    """A class by its path, or by its bare name."""
    module, _, name = path.rpartition(".")
    for place in [module] if module else _CLASS_MODULES:
        if name in (classes := _classes(place)):
            return classes[name]
    return None


def _meant_class(path: str) -> str:
    module, _, name = path.rpartition(".")
    for place in (*([module] if module else []), *_CLASS_MODULES):
        if close := get_close_matches(name, _classes(place), 1, 0.8):
            return f": did you mean {f'{place}.' if module else ''}{close[0]}?"
    return ""


def _classes(module: str) -> dict[str, type]:
    try:
        members = vars(importlib.import_module(module))
    except (ImportError, ValueError):
        return {}
    return {name: member for name, member in members.items() if isinstance(member, type)}


def _parameters(chosen: type) -> list[str] | None:
    """What a class may be given; None if that cannot be told."""
    names: list[str] = []
    for base in chosen.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(base.__init__).parameters.values()  # type: ignore[misc]
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        filled_in = ("self", "params")  # an optimiser's parameters are the network's
        names += [p.name for p in parameters if p.kind in named and p.name not in filled_in]
        if not any(p.kind == inspect.Parameter.VAR_KEYWORD for p in parameters):
            return names  # otherwise the rest goes to the next base
    return None


def _shortened(refusal: str) -> str:
    """The one telling line of jsonargparse's report."""
    missing = re.search(r"arguments are required: (.*)", refusal)
    keys = re.findall(r'Parser key "([^"]+)"', refusal)
    for chosen in re.findall(r"Problem with given class_path '([^']+)'", refusal)[:1]:
        keys.insert(1, chosen.rpartition(".")[2])
    what = ", ".join(keys[:1] + [".".join(keys[1:])] * (len(keys) > 1))
    if missing and what:
        return f"{what}: {missing[1]} must be given"
    if missing:
        names = re.sub(r"\b\w+\.(?=\w+\.)", "", missing[1])
        return (
            f"{names} must be given: take a configuration "
            "(--config lightning_train/configs/NAME.yaml) and your photos (--data.root FOLDER)"
            if "model" in names or "data." in names
            else f"{names} must be given"
        )
    expected = [
        _plain(line)
        for line in re.findall(r"Expected an? (.*?)(?:\. Got value: .*)?$", refusal, re.MULTILINE)
        if "NoneType" not in line
    ]
    got = re.search(r"(?:Got value|Given value): (.*)", refusal)
    if keys and expected and got:
        return f"{what}: expected {' or '.join(dict.fromkeys(expected))}, got {got[1]}"
    return " ".join(refusal.split())[:400]


def _plain(kind: str) -> str:
    """A type as a person would say it."""
    if kind.startswith("typing.Literal"):
        return "one of " + ", ".join(
            map(str, ast.literal_eval(kind.removeprefix("typing.Literal")))
        )
    return re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", kind)
