"""Which errors are the user's to mend: they are told in a line. The others keep their traceback."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable

import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import SIGTERMException

from handler.errors import CarIdentifierError
from lightning_train.callbacks.failures import is_disk_full
from lightning_train.config_errors import SettingsError
from lightning_train.data import DatasetError

__all__ = ["exit_code", "user_message"]

# A ValueError that these raise is a refusal of what they were given.
_REFUSING = ("handler", "lightning_fabric", "lightning_train", "pytorch_lightning", "torch.optim")


def exit_code(run: Callable[[], object]) -> int:
    """Run a command; what the user can mend is said in a line on stderr, a bug keeps its traceback.

    Returns:
        0; 1 for what went wrong; 2 for wrong settings; 130 and 143 if Ctrl-C or SIGTERM ended it.
    """
    try:
        run()
    except KeyboardInterrupt:
        return 130
    except SIGTERMException:
        return 143
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):  # what Lightning makes of it
            return 130
        raise
    except Exception as error:
        if (message := user_message(error)) is None:
            raise
        rank = getattr(rank_zero_only, "rank", 0)
        process = f"[process {rank}] " if rank else ""
        said = [f"{process}error: {message}", *getattr(error, "__notes__", ())]
        print("\n".join(said), file=sys.stderr)
        return 2 if isinstance(error, SettingsError) else 1
    return 0


def user_message(error: Exception) -> str | None:
    """What to tell the user; None if it is for the developer."""
    if isinstance(error, CarIdentifierError | DatasetError | MisconfigurationException):
        return str(error)
    if isinstance(error, torch.OutOfMemoryError):
        return (
            "the memory of the GPU does not suffice: lower data.batch_size (or data.size), or let "
            f"the photos stay on the host with data.storage=memory. {error}"
        )
    if isinstance(error, OSError) and (is_disk_full(error) or error.filename):
        return str(error)
    if isinstance(error, ValueError):
        # What a class of the configuration refuses comes wrapped, once for each type it could be.
        while isinstance(error.__cause__, ValueError) and _raised_in(error, "jsonargparse"):
            error = error.__cause__
        return str(error) if _is_refusal(error) else None
    return None


def _raised_in(error: Exception, *modules: str) -> bool:
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and str(frames[-1].f_globals.get("__name__")).startswith(modules)


def _is_refusal(error: ValueError) -> bool:
    """Whether a `raise` of our own, or of the trainer's, made it: Python's own is a bug."""
    if not _raised_in(error, *_REFUSING):
        return False
    line = traceback.extract_tb(error.__traceback__)[-1].line
    return line is not None and line.startswith("raise")
