"""The commands of `python -m lightning_train`, and how each of them fails."""

from __future__ import annotations

import argparse
import importlib
import sys
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import Any, cast

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI

from lightning_train.callbacks import Augmentation
from lightning_train.classifier import CarClassifier
from lightning_train.config_errors import SettingsError, explain
from lightning_train.data import CarDataModule
from lightning_train.defaults import with_defaults
from lightning_train.resuming import check_checkpoint, read_checkpoint, resume_command
from lightning_train.user_errors import exit_code

__all__ = ["CarCLI", "main"]

_PROGRAM = "python -m lightning_train"
# Of Lightning, and nothing that a user could change.
_KNOWN_WARNING = r".*isinstance\(treespec, LeafSpec\)"


@dataclass(frozen=True)
class _Command:
    """One command: what it is for, how it is called, and what runs it."""

    about: str
    example: str
    run: Callable[[Sequence[str]], None]


class _Parser(LightningArgumentParser):
    """Refuses by exception, takes no abbreviations, and has a `--help` of one screen.

    Attributes:
        help_text: what `--help` prints instead of every setting there is.
    """

    help_text: str | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"exit_on_error": False, "allow_abbrev": False, **kwargs})

    def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:
        return self.help_text or self.format_full_help()

    def format_full_help(self) -> str:
        """Every setting."""
        return str(super().format_help())


class _FullHelp(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        assert isinstance(parser, _Parser)  # noqa: S101  (added to no other)
        print(parser.format_full_help())
        parser.exit()


class CarCLI(LightningCLI):
    """LightningCLI whose model learns its classes and its input from the data module.

    Every run gets what `lightning_train.callbacks.failures` has, whatever its configuration names.

    Args:
        arguments: the command and what follows it.
        run: whether the command is one of the trainer's, or only wants the objects.
    """

    def __init__(self, arguments: Sequence[str], run: bool = True) -> None:
        self.arguments = list(arguments)
        self.checkpoint: dict[str, Any] = {}
        super().__init__(
            CarClassifier,
            CarDataModule,
            seed_everything_default=1,
            auto_configure_optimizers=False,
            save_config_kwargs={"overwrite": True},
            parser_class=_Parser,
            args=self.arguments if run else self.arguments[1:],
            run=run,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The trainer's commands that make sense for a classifier."""
        commands = LightningCLI.subcommands()
        return {name: commands[name] for name in ("fit", "validate", "test")}

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """A parser with a short help."""
        parser = super().init_parser(**{"prog": _PROGRAM, **kwargs})
        parser.add_argument("--help-all", action=_FullHelp, nargs=0, help="every setting")
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link what the data module knows to the model."""
        for name in ("class_names", "class_counts"):
            parser.link_arguments(f"data.{name}", f"model.{name}", apply_on="instantiate")
        for name in ("size", "mean", "std"):
            parser.link_arguments(f"data.{name}", f"model.{name}")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse them.

        Raises:
            SettingsError: they are wrong; the message says what would be right.
        """
        of_command = getattr(self, "_subcommand_parsers", {}).get(self.arguments[0], parser)
        of_command.help_text = _settings_help(self.arguments[0], of_command)
        try:
            self.config = parser.parse_args(cast(list[str], args))
        except argparse.ArgumentError as error:
            raise SettingsError(explain(of_command, self.arguments[1:], str(error))) from None

    def _parse_ckpt_path(self) -> None:
        """A run goes on with the settings it is given; a score needs those of the checkpoint."""
        command = self.config.get("subcommand")
        path = self.config[command].get("ckpt_path") if command else None
        if path is None or path in ("best", "last", "hpc") or "://" in path:
            return
        self.checkpoint = read_checkpoint(path)
        if command != "fit":
            super()._parse_ckpt_path()

    def instantiate_classes(self) -> None:
        """Instantiate them; a checkpoint replaces every weight, so no others are looked for."""
        model = self._get(self.config, "model")
        weights = model.weights
        if self.checkpoint:
            model.weights = None
        super().instantiate_classes()
        model.weights = weights  # the run's config.yaml says what it was started from

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """A trainer with what every run has."""
        settings = {**self._get(self.config_init, "trainer"), **kwargs}
        to_resume = partial(resume_command, self.arguments)
        return super().instantiate_trainer(**with_defaults(settings, to_resume))

    def after_instantiate_classes(self) -> None:
        """Refuse a checkpoint of another network or of other cars.

        Raises:
            SettingsError: it is one.
        """
        if self.checkpoint:
            check_checkpoint(self.checkpoint, self.model.hparams, self.subcommand == "fit")


class _ObjectsCLI(CarCLI):
    """The objects of a configuration for a command of our own, with options of its own.

    Args:
        arguments: the command and what follows it.
        function: the command; its parameters are the options.
        given: those of its parameters that are no options.
        trainer: makes the trainer from the settings under `trainer`.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        function: Callable[..., Any],
        given: set[str],
        trainer: Callable[[Mapping[str, Any]], pl.Trainer],
    ) -> None:
        self.function, self.given, self.make_trainer = function, given, trainer
        super().__init__(arguments, run=False)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """And the options."""
        super().add_arguments_to_parser(parser)
        self._options = parser.add_function_arguments(self.function, skip=set(self.given))

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """As the command wants it."""
        return self.make_trainer(self.config_init["trainer"])

    @property
    def options(self) -> dict[str, Any]:
        """The options' values."""
        return {name: self.config_init[name] for name in self._options}


def _lightning(arguments: Sequence[str]) -> None:
    CarCLI(arguments)


# What the other commands need is imported by them alone: OpenVINO and NNCF take seconds.


def _fit_within(arguments: Sequence[str]) -> None:
    from lightning_train.time_budget import fit_within

    fit_within(arguments)


def _lr_range_test(arguments: Sequence[str]) -> None:
    from lightning_train.range_test import lr_range_test, range_test_trainer

    given = {"model", "data", "trainer"}
    cli = _ObjectsCLI(arguments, lr_range_test, given, range_test_trainer)
    lr_range_test(cli.model, cli.datamodule, cli.trainer, **cli.options)


def _show_augmentations(arguments: Sequence[str]) -> None:
    from lightning_train.contact_sheet import draw_contact_sheet

    given = {"data", "callbacks", "class_names"}

    def trainer(settings: Mapping[str, Any]) -> pl.Trainer:
        # The configuration's own may be for a machine with GPUs.
        callbacks = settings.get("callbacks") or []
        return pl.Trainer(
            accelerator="cpu", logger=False, callbacks=callbacks,
            max_epochs=settings.get("max_epochs"),
        )  # fmt: skip

    # The network is not run: neither download nor read its weights.
    without_weights = [*arguments, "--model.weights=null"]
    cli = _ObjectsCLI(without_weights, draw_contact_sheet, given, trainer)
    callbacks: list[Callback] = cli.trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if isinstance(callback, Augmentation):
            callback.setup(cli.trainer, cli.model, "fit")
    path = draw_contact_sheet(cli.datamodule, callbacks, cli.model.class_names, **cli.options)
    print(f"written to {path}")


def _function(module: str, arguments: Sequence[str]) -> None:
    """Run a command that is a function of its options, of its own name in `module`."""
    function = getattr(importlib.import_module(module), arguments[0].replace("-", "_"))
    command = _COMMANDS[arguments[0]]
    parser = _Parser(
        prog=f"{_PROGRAM} {arguments[0]}",
        description=command.about,
        epilog=f"example: {_PROGRAM} {command.example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_function_arguments(function, as_group=False)
    try:
        config = parser.parse_args(list(arguments[1:]))
    except argparse.ArgumentError as error:
        raise SettingsError(explain(parser, arguments[1:], str(error))) from None
    function(**parser.instantiate_classes(config))


_RESNET = "--config lightning_train/configs/resnet152.yaml --data.root /path/to/data"
_COMMANDS = {
    "fit": _Command("Train a network.", f"fit {_RESNET} --trainer.max_epochs 3", _lightning),
    "fit-within": _Command(
        "Train a network for so many minutes, a whole number of cycles.",
        f"fit-within --minutes 18 {_RESNET}",
        _fit_within,
    ),
    "validate": _Command(
        "Score a checkpoint on the validation split, and write its report.",
        f"validate {_RESNET} --ckpt_path runs/…/best.ckpt",
        _lightning,
    ),
    "test": _Command(
        "Score a checkpoint on the official test split, and write its report.",
        f"test {_RESNET} --ckpt_path runs/…/best.ckpt",
        _lightning,
    ),
    "lr-range-test": _Command(
        "Find the bounds of the learning rate: a short run with a rising rate.",
        f"lr-range-test {_RESNET}",
        _lr_range_test,
    ),
    "show-augmentations": _Command(
        "Draw photos as training sees them.", f"show-augmentations {_RESNET}", _show_augmentations
    ),
    "ablation": _Command(
        "Train variants of one configuration and compare them in a table.",
        "ablation --experiments lightning_train/experiments/schedules.yaml --data /path/to/data",
        partial(_function, "lightning_train.ablation"),
    ),
    "archive": _Command(
        "Quantise a checkpoint and package it as a .mar.",
        "archive --checkpoint runs/…/best.ckpt --version 2.0 --data /path/to/data",
        partial(_function, "lightning_train.archive"),
    ),
    "export-weights": _Command(
        "Write a checkpoint's weights as safetensors, to start other runs from.",
        "export-weights --checkpoint runs/…/best.ckpt --out model_store/weights",
        partial(_function, "lightning_train.trained"),
    ),
    "evaluate": _Command(
        "Score a .mar through the worker's own code.",
        "evaluate --archive model_store/car_identifier.mar --data /path/to/data --split test",
        partial(_function, "lightning_train.evaluation.evaluate"),
    ),
    "show-explanations": _Command(
        "Draw where an archive looks on photos.",
        "show-explanations --archive model_store/car_identifier.mar --photos /path/to/photos",
        partial(_function, "lightning_train.explanation_sheet"),
    ),
}


def _usage() -> str:
    width = max(map(len, _COMMANDS)) + 2
    commands = "\n".join(f"  {name:{width}}{c.about}" for name, c in _COMMANDS.items())
    return (
        f"usage: {_PROGRAM} COMMAND ...\n\n{commands}\n\n"
        f"{_PROGRAM} COMMAND --help tells what a command takes."
    )


def _settings_help(command: str, parser: _Parser) -> str:
    """One screen: what is needed most, and the options that no other command has."""
    common = {"help", "help_all", "config", "print_config", "seed_everything", "weights_only"}
    rows = [
        ("--config FILE", "settings, e.g. lightning_train/configs/resnet152.yaml; give several, "
         "and what a later one says holds"),
        ("--data.root FOLDER", "the photos"),
        *(
            (
                f"--{action.dest} {action.dest.upper()}",
                f"{str(action.help).rstrip('.')} (default: {action.default})",
            )
            for action in parser._actions
            if action.option_strings and "." not in action.dest and action.dest not in
            common | {"trainer", "model", "data", "ckpt_path"}
        ),
        ("--SETTING VALUE", "any setting of a file, e.g. --model.dropout 0.1"),
        ("--print_config", "show all settings as they would be used, and stop"),
        ("--help-all", "every setting and what it means"),
    ]  # fmt: skip
    if any(action.dest == "ckpt_path" for action in parser._actions):
        what = "the checkpoint to go on from" if command == "fit" else "the checkpoint to score"
        rows.insert(2, ("--ckpt_path FILE", what))
    width = max(len(option) for option, _ in rows) + 4
    options = [
        textwrap.fill(text, 100, initial_indent=f"  {option}".ljust(width),
                      subsequent_indent=" " * width)
        for option, text in rows
    ]  # fmt: skip
    about = _COMMANDS[command]
    return (
        f"usage: {_PROGRAM} {command} --config FILE [--SETTING VALUE ...]\n\n{about.about}\n\n"
        + "\n".join(options)
        + f"\n\nexample: {_PROGRAM} {about.example}\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    What the user can mend is said in a line on stderr; a bug keeps its traceback.

    Args:
        arguments: the command and what follows it; None for those of the process.

    Returns:
        The exit code: 0; 1 for what went wrong; 2 for a wrong command line; 130 and 143 if Ctrl-C
        or SIGTERM ended it.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    command = arguments[0] if arguments else ""
    if command in ("-h", "--help"):
        print(_usage())
        return 0
    if command not in _COMMANDS:
        close = get_close_matches(command, _COMMANDS, 1)
        meant = f"error: no command {command}: did you mean {close[0]}?" if close else _usage()
        print(meant, file=sys.stderr)
        return 2
    warnings.filterwarnings("ignore", message=_KNOWN_WARNING)
    return exit_code(partial(_COMMANDS[command].run, arguments))
