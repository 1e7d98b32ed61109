"""The trainer's command line: `python -m lightning_train COMMAND --help`."""

import sys

from lightning_train.cli import main

if __name__ == "__main__":
    sys.exit(main())
