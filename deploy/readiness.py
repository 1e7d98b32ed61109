"""Whether what was started here would answer a photo now, and whether it still does later."""

from __future__ import annotations

import re
import time

from deploy.errors import ServeError
from deploy.options import Options
from deploy.process_group import ProcessGroup
from deploy.torchserve import NoAnswerError, default_version, open_url

# Times the worker may fail to load the archive before the start is given up.
_LOAD_ATTEMPTS = 2
# Seconds between two looks at a service that is ready; each may cost a photo.
_LOOK_EVERY = 15.0


def ask(options: Options) -> None:
    """Return if the services that are started here are ready.

    With both that is the gateway's word, GET /readyz: a worker READY and a real photo answered.
    TorchServe alone has to have a worker READY. The gateway alone has to be alive: what becomes of
    the TorchServe beside it is not mended by ending the gateway.

    Raises:
        NoAnswerError: they are not, and why.
    """
    if options.runs_gateway:
        open_url(f"{options.url}/{'readyz' if options.runs_torchserve else 'healthz'}")
    else:
        ask_torchserve(options)


def ask_torchserve(options: Options) -> None:
    """Return if TorchServe's default version has a worker that is ready.

    Raises:
        NoAnswerError: it has none, or TorchServe does not say.
    """
    default = default_version(options.management_url, options.key_file)
    if not default.ready:
        raise NoAnswerError(f"version {default.version} has no worker that is ready")


class Start:
    """The time until all is ready."""

    def __init__(self, options: Options, archive: str, services: list[ProcessGroup]) -> None:
        """Begin it: `archive` is the default version's file in the model store."""
        self._options = options
        self._archive = options.model_store / archive
        self._services = services
        self._deadline = time.monotonic() + options.startup_timeout

    def is_over(self) -> bool:
        """Whether all is ready.

        Raises:
            ServeError: the worker fails to load the archive again and again, which TorchServe would
                go on trying, and /readyz can't tell from a slow start; or it takes too long.
        """
        try:
            ask(self._options)
        except NoAnswerError:
            if self._options.runs_torchserve:
                self._check_loading(self._services[0].log_text())
        else:
            return True
        if time.monotonic() > self._deadline:
            raise ServeError(
                f"not ready after {self._options.startup_timeout:.0f} s (a slow machine may need "
                "more: CARID_STARTUP_TIMEOUT); the ends of the logs:\n"
                + "\n".join(f"--- {it.name}\n{it.log_end()}" for it in self._services)
            )
        return False

    def _check_loading(self, log: str) -> None:
        if log.count("Load model failed") < _LOAD_ATTEMPTS:
            return
        # The adapter's own sentence about a broken archive, or else the exception of a traceback.
        reasons = re.findall(r"MODEL_LOG - .* can't be served: (.*)", log) or re.findall(
            r"MODEL_LOG - ((?:\w+\.)*\w+(?:Error|Exception): .*)", log
        )
        reason = reasons[-1] if reasons else "it died without a word"
        way_out = (
            " (kept from the last run: CARID_KEEP_VERSIONS=false serves the configured archive)"
            if self._archive.name != self._options.archive.name
            else ""
        )
        raise ServeError(f"the worker cannot load {self._archive}: {reason}{way_out}")


class Vigil:
    """The time after: looks again and again, and loses patience with what stays unready."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._next = self._good = time.monotonic()

    def look(self) -> None:
        """Look, if it is time to.

        Raises:
            ServeError: not ready for longer than the options allow.
        """
        now = time.monotonic()
        if not self._options.unready_timeout or now < self._next:
            return
        self._next = now + min(_LOOK_EVERY, self._options.unready_timeout / 4)
        try:
            ask(self._options)
            self._good = time.monotonic()
        except NoAnswerError as error:
            if now - self._good > self._options.unready_timeout:
                raise ServeError(
                    f"not ready for {now - self._good:.0f} s (CARID_UNREADY_TIMEOUT): {error}"
                ) from error
