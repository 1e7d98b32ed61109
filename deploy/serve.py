"""Run TorchServe and the gateway on this machine: `python -m deploy.serve`, as `make serve` does.

Everything that can be known to fail is looked at first, so that it is one line and not a stack
trace in a log. Then both are started, and nothing is called ready before `GET /readyz` of the
gateway is: a worker READY and a real inference answered. If either service ends by itself the
other is stopped too; Ctrl-C stops both. No process is left behind either way.

Options can be given in the environment as well (`--port` is CARID_PORT, and so on), which is how
they pass through make: `make serve CARID_PORT=8001`.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from deploy.announcement import announce, shown
from deploy.api_keys import prepare_api_keys
from deploy.bootstrap import BootstrapError, require_python
from deploy.errors import ServeError
from deploy.model_store import KeptVersions, archive_version, put_archive_into_store
from deploy.options import Options
from deploy.preflight import check
from deploy.process_group import ProcessGroup
from deploy.readiness import Start, Vigil
from deploy.run_directory import (
    exclusive_run_dir,
    gateway_is_up,
    read_json,
    temporary_directory,
    write_service_file,
)
from deploy.services import gateway_environment, start_gateway, start_torchserve

# Seconds the gateway has for requests under way once it listens no longer: above the slowest
# batch, below a user's patience.
_LAST_ANSWERS = 30.0
# Seconds TorchServe has to end, with nobody left who asks it anything.
_TORCHSERVE_PATIENCE = 15.0
# Seconds between two looks at what is served, to remember it.
_REMEMBER_EVERY = 2.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to stop; returns the exit code."""
    stop = StopRequest()
    try:
        require_python(sys.version_info[:2], sys.executable)
        options = Options.parse(sys.argv[1:] if arguments is None else arguments, os.environ)
        with (
            exclusive_run_dir(options),
            temporary_directory(options) as temporary,
        ):
            check(options)
            return serve(options, temporary, stop)
    except (ServeError, BootstrapError) as error:
        return failed(error)


def failed(error: Exception) -> int:
    """Tell the reader; returns the exit code."""
    print(f"error: {error}", file=sys.stderr, flush=True)
    return 1


class StopRequest:
    """Whether this process has been asked to stop (Ctrl-C, a closed terminal, SIGTERM)."""

    def __init__(self) -> None:
        self._signals = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._count)

    def _count(self, _number: int, _frame: FrameType | None) -> None:
        self._signals += 1

    def __bool__(self) -> bool:
        return self._signals > 0

    def is_urgent(self) -> bool:
        """Whether it was asked a second time."""
        return self._signals > 1


def serve(options: Options, temporary: Path, stop: StopRequest) -> int:
    """Start the services, announce readiness, stay until asked to stop or one of them ends.

    Returns:
        The exit code: 0 if it was asked to stop, ready or not.

    Raises:
        ServeError: nothing could be started.
    """
    key_needed = False
    archives = [options.archive.name]
    versions = KeptVersions(options)
    if options.runs_torchserve:
        options.key_file.unlink(missing_ok=True)  # tokens of an earlier start open nothing
        put_archive_into_store(options)
        archives = versions.to_serve()
        forget_canary(options, archives)
    if options.runs_gateway:
        key_needed = prepare_api_keys(options, gateway_environment(options))
    services: list[ProcessGroup] = []
    answers = False
    try:
        started = time.monotonic()
        if options.runs_torchserve:
            services.append(start_torchserve(options, archives, temporary))
        if options.runs_gateway:
            services.append(start_gateway(options))
        for service in services:
            log = f", its log: {shown(service.log)}" if service.log else ""
            print(f"{service.name} is starting{log}", flush=True)
        write_service_file(options)
        wait_until(Start(options, archives[0], services).is_over, services, stop)
        if not stop:
            announce(options, time.monotonic() - started, key_needed=key_needed)
            answers = True
        wait_until(watching(options, versions), services, stop)
        versions.remember()
        return 0
    except ServeError as error:
        answers = False  # a service is gone, or has not been ready for long
        return failed(error)
    finally:
        print("\nstopping …", flush=True)
        stop_all(options, services, stop, answers=answers)
        print("stopped", flush=True)


def forget_canary(options: Options, archives: Sequence[str]) -> None:
    """Have the gateway try no version that will not be there: it was gone with TorchServe."""
    served = {archive_version(options.model_store / archive) for archive in archives}
    if read_json(options.canary_file).get("version") not in served:
        options.canary_file.unlink(missing_ok=True)
    # A version that was being removed is, or is there again.
    options.canary_file.with_name("retiring.json").unlink(missing_ok=True)


def watching(options: Options, versions: KeptVersions) -> Callable[[], bool]:
    """What is done while all is well, to be called again and again; it is never over."""
    vigil = Vigil(options)
    next_look = time.monotonic()

    def look() -> bool:
        nonlocal next_look
        vigil.look()
        if options.runs_torchserve and time.monotonic() >= next_look:
            versions.remember()
            next_look = time.monotonic() + _REMEMBER_EVERY
        return False

    return look


def wait_until(
    condition: Callable[[], bool], services: Sequence[ProcessGroup], stop: StopRequest
) -> None:
    """Return once the condition holds or a stop is requested.

    Raises:
        ServeError: a service ended by itself; the message holds the end of its log.
    """
    while not stop and not condition():
        for service in services:
            if service.exit_code is not None:
                raise ServeError(
                    f"{service.name} ended by itself{service.how_it_ended()}; the end of its log:\n"
                    + service.log_end()
                )
        time.sleep(0.2)


def stop_all(
    options: Options, services: Sequence[ProcessGroup], stop: StopRequest, *, answers: bool
) -> None:
    """Stop the public side first, and TorchServe when nobody asks it any longer.

    Where photos are not answered (`answers` is false) nobody is given time to go elsewhere.
    """
    patience = options.drain_s + _LAST_ANSWERS
    # To the gateway a second signal means not to drain, but to finish what is under way. A
    # gateway that does not drain would finish nothing.
    hurried = options.drain_s and not answers
    polite = (signal.SIGTERM, signal.SIGINT) if hurried else (signal.SIGTERM,)
    for service in reversed(services):
        if service.name == "gateway":
            # Its own limit is as long: what ends it is the answer to the last request.
            service.stop(patience + 5, hurry=stop.is_urgent, polite=polite)
        else:
            if stop and answers and not options.runs_gateway:
                wait_for_gateway_elsewhere(options, patience, stop)
            service.stop(_TORCHSERVE_PATIENCE, hurry=stop.is_urgent)
    if options.runs_torchserve:
        options.key_file.unlink(missing_ok=True)


def wait_for_gateway_elsewhere(options: Options, patience: float, stop: StopRequest) -> None:
    """Let a gateway that runs beside this one, with the same run directory, end first."""
    deadline = time.monotonic() + patience
    while gateway_is_up(options.run_dir) and time.monotonic() < deadline and not stop.is_urgent():
        time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main())
