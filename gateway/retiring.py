"""A version that is being removed: nobody gets to it any more, so that no request is lost with it.

TorchServe may drop what a version is asked while its workers are taken away. So the command that
removes a version writes its name into a file first, and what asks for it is refused here:

    {"version": "1.1"}
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from gateway.errors import UnknownVersionError

__all__ = ["Retiring"]

logger = logging.getLogger(__name__)


class Retiring:
    """Knows which version is being removed.

    Args:
        path: the file; none if no version is.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def check(self, version: str | None) -> None:
        """Return if a photo may go to the version; None is the default one.

        Raises:
            UnknownVersionError: it is being removed.
        """
        # Few name a version, so the file is simply read.
        if version is not None and version == self._retiring():
            raise UnknownVersionError(version)

    def _retiring(self) -> str | None:
        try:
            return str(json.loads(self._path.read_bytes())["version"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, TypeError) as error:
            logger.error("%s can't be read, so no version is retiring: %s", self._path, error)
            return None
