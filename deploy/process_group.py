"""A service with everything it starts, handled as one: TorchServe is a family of processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from deploy.console import ConsoleLines

# Seconds until the next polite signal: a handler in Python that is interrupted by the next one's
# has not noted its own yet, and both would count as the first.
_BETWEEN_SIGNALS = 0.3


class ProcessGroup:
    """A command in a session of its own, whose output goes to a file or to the console.

    A session of its own has two effects. Ctrl-C in the terminal reaches only the launcher, which
    then stops the services in order. And a signal to the group reaches them all: TorchServe's
    launcher script dies of SIGTERM alone and leaves its Java and the Python workers running.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        cwd: Path,
        log: Path | None,
        env: Mapping[str, str],
    ) -> None:
        """Start the command.

        Args:
            name: what to call it in messages.
            command: program and arguments.
            cwd: the directory it runs in.
            log: gets its standard output and error; what an earlier start wrote there is kept as
                `NAME.log.1`. None: each line is printed, with the name before it.
            env: added to the launcher's own environment.
        """
        self.name = name
        self.log = log
        self._console: ConsoleLines | None = None
        if log:
            _keep_previous(log)
        # Appended to: a file that grew too big can be emptied while the service writes.
        with log.open("ab") if log else contextlib.nullcontext(subprocess.PIPE) as output:
            self._process = subprocess.Popen(
                command,
                cwd=cwd,
                env={**os.environ, **env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        if self._process.stdout:
            self._console = ConsoleLines(name, self._process.stdout)
        self.pid = self._process.pid

    @property
    def exit_code(self) -> int | None:
        """How the first process of the group ended; None while it runs."""
        return self._process.poll()

    def is_gone(self) -> bool:
        """Whether no process of the group is left."""
        if self._process.poll() is None:
            return False
        try:
            # Orphans of the group become this process's children where it is a container's first
            # process: they count as running until somebody waits for them.
            while os.waitpid(-self.pid, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # macOS says this of a group in which only zombies are left
            return True
        return False

    def stop(
        self,
        patience: float,
        hurry: Callable[[], bool] = lambda: False,
        *,
        polite: Sequence[signal.Signals] = (signal.SIGTERM,),
    ) -> None:
        """End every process of the group and wait until it has.

        Args:
            patience: seconds between the polite signals and the one that cannot be refused.
            hurry: asked meanwhile; true ends the patience.
            polite: sent one after the other. Of two that are the same one could get lost.
        """
        self._end(polite, patience, hurry)
        if self._console:
            self._console.finish(timeout=2.0)  # a stray grandchild may hold the pipe

    def _end(
        self, polite: Sequence[signal.Signals], patience: float, hurry: Callable[[], bool]
    ) -> None:
        for signals, wait in ((polite, patience), ((signal.SIGKILL,), 10.0)):
            for number, sent in enumerate(signals):
                if number:
                    time.sleep(_BETWEEN_SIGNALS)
                if self.is_gone():
                    return
                with contextlib.suppress(ProcessLookupError):  # gone just now
                    os.killpg(self.pid, sent)
            deadline = time.monotonic() + wait
            while not self.is_gone() and time.monotonic() < deadline:
                if signals is polite and hurry():
                    break
                time.sleep(0.05)

    def how_it_ended(self) -> str:
        """For messages: in brackets what the first process's exit code says, if it says anything.

        TorchServe's script ends with 0 whatever its Java died of.
        """
        code = self.exit_code
        if not code:
            return ""
        return f" (killed by signal {-code})" if code < 0 else f" (exit code {code})"

    def log_text(self) -> str:
        """What the service said: all that its log file holds, or the last lines on the console."""
        if self._console:
            return self._console.text()
        return self.log.read_text("utf-8", "replace") if self.log else ""

    def log_end(self, lines: int = 25) -> str:
        """The last lines of what it said."""
        return "\n".join(self.log_text().splitlines()[-lines:])


def _keep_previous(log: Path) -> None:
    """Put the log of an earlier start aside: why that one failed is asked after the next one."""
    if log.exists() and log.stat().st_size:
        log.replace(log.with_name(f"{log.name}.1"))
