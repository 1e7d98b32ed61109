"""The trainer's command line: `python -m lightning_train COMMAND --help`."""

from __future__ import annotations

import sys

from jsonargparse import auto_cli
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from handler.errors import ArchiveError
from lightning_train.archive import archive
from lightning_train.classifier import CarClassifier
from lightning_train.data import CarDataModule, DatasetError
from lightning_train.evaluation.evaluate import evaluate

_USAGE = """\
usage: python -m lightning_train COMMAND ...

  fit        train; --config lightning_train/configs/NAME.yaml --data.root FOLDER
  validate   score a checkpoint on the validation split
  test       score a checkpoint on the official test split
  archive    quantise a checkpoint and package it as a .mar
  evaluate   score a .mar through the worker's own code

python -m lightning_train COMMAND --help tells what a command takes."""

_LIGHTNING = ("fit", "validate", "test")


class CarCLI(LightningCLI):
    """LightningCLI whose model learns its classes and its input from the data module."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link what the data module knows to the model."""
        parser.link_arguments("data.class_names", "model.class_names", apply_on="instantiate")
        for name in ("size", "mean", "std"):
            parser.link_arguments(f"data.{name}", f"model.{name}")

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The trainer's commands that make sense for a classifier."""
        commands = LightningCLI.subcommands()
        return {name: commands[name] for name in _LIGHTNING}


def main() -> int:
    """Run the command that `sys.argv` names."""
    command = sys.argv[1] if len(sys.argv) > 1 else "--help"
    try:
        if command in _LIGHTNING:
            CarCLI(
                CarClassifier,
                CarDataModule,
                seed_everything_default=1,
                auto_configure_optimizers=False,
                save_config_kwargs={"overwrite": True},
            )
        elif command in ("archive", "evaluate"):
            auto_cli({"archive": archive, "evaluate": evaluate}, as_positional=False)
        else:
            wanted_help = command in ("-h", "--help")
            print(_USAGE, file=sys.stdout if wanted_help else sys.stderr)
            return 0 if wanted_help else 2
    except (ArchiveError, DatasetError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
