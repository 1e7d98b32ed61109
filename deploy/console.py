"""What a service says, printed line by line instead of kept in a file: logs in a container."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections import deque
from typing import IO

# For messages about a failed start; a worker that can't load its archive says so in some fifty.
_KEPT_LINES = 2000
# A longer line is broken up: nothing a service says may fill the memory.
_LONGEST = 65536

_printing = threading.Lock()


class ConsoleLines:
    """Prints each line of a stream with a name before it, and remembers the last ones.

    Runs in a thread of its own until the stream ends. If nobody reads the standard output any
    longer, the lines are dropped, and the service goes on.
    """

    def __init__(self, name: str, stream: IO[bytes]) -> None:
        """Begin at once.

        Args:
            name: printed before each line.
            stream: what a process writes; closed at its end.
        """
        self._prefix = f"{name:<10} | ".encode()
        self._stream = stream
        self._lines = deque[bytes](maxlen=_KEPT_LINES)
        self._thread = threading.Thread(target=self._relay, name=f"log of {name}", daemon=True)
        self._thread.start()

    def text(self) -> str:
        """The last lines, as the service wrote them."""
        return b"".join(tuple(self._lines)).decode("utf-8", "replace")

    def finish(self, timeout: float) -> None:
        """Wait, so many seconds at most, until all that was said is printed."""
        self._thread.join(timeout)

    def _relay(self) -> None:
        with self._stream:
            while line := self._stream.readline(_LONGEST):
                ended = line if line.endswith(b"\n") else line + b"\n"
                self._lines.append(ended)
                with _printing, contextlib.suppress(OSError, ValueError):
                    sys.stdout.buffer.write(self._prefix + ended)
                    sys.stdout.buffer.flush()
