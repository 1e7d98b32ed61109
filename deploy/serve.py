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
import re
import shutil
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from deploy.api_keys import prepare_api_keys
from deploy.bootstrap import BootstrapError, require_python
from deploy.options import LOOPBACK, ROOT, Options
from deploy.preflight import ServeError, check, exclusive_run_dir, temporary_directory
from deploy.process_group import ProcessGroup

MODEL_NAME = "car_identifier"
# Seconds a service has for requests under way: above the slowest batch, below a user's patience.
STOP_PATIENCE = 15.0
# Times the worker may fail to load the archive before the start is given up.
LOAD_ATTEMPTS = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to stop; returns the exit code."""
    stop = StopRequest()
    try:
        require_python(sys.version_info[:2], sys.executable)
        options = Options.parse(sys.argv[1:] if arguments is None else arguments, os.environ)
        with exclusive_run_dir(options.run_dir), temporary_directory() as temporary:
            options.key_file.unlink(missing_ok=True)  # tokens of an earlier start open nothing
            options.canary_file.unlink(missing_ok=True)  # the version on trial is gone with it
            java_home = check(options)
            key_needed = prepare_api_keys(options, gateway_environment(options))
            return serve(options, java_home, temporary, stop, key_needed=key_needed)
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


def serve(
    options: Options, java_home: Path, temporary: Path, stop: StopRequest, *, key_needed: bool
) -> int:
    """Start both services, announce readiness, stay until asked to stop or one of them ends.

    Returns:
        The exit code: 0 if it was asked to stop, ready or not.
    """
    services: list[ProcessGroup] = []
    try:
        started = time.monotonic()
        services.append(start_torchserve(options, java_home, temporary))
        services.append(start_gateway(options))
        for service in services:
            print(f"{service.name} is starting, its log: {shown(service.log)}", flush=True)
        wait_until(
            lambda: is_ready(options, services[0].log), services, stop, options.startup_timeout
        )
        if not stop:
            announce(options, time.monotonic() - started, key_needed=key_needed)
        wait_until(lambda: False, services, stop)
        return 0
    except ServeError as error:
        return failed(error)
    finally:
        print("\nstopping …", flush=True)
        for service in reversed(services):  # the public side first
            service.stop(STOP_PATIENCE, hurry=stop.is_urgent)
        options.key_file.unlink(missing_ok=True)
        print("stopped", flush=True)


def start_torchserve(options: Options, java_home: Path, temporary: Path) -> ProcessGroup:
    """Start TorchServe in the run directory, with the repository's configuration."""
    properties = options.run_dir / "config.properties"
    source = (ROOT / "config.properties").read_text("utf-8")
    properties.write_text(effective_properties(source, options), "utf-8")
    # Beside it, as in the repository: the path in config.properties is relative.
    shutil.copyfile(ROOT / "metrics.yaml", options.run_dir / "metrics.yaml")
    path = [str(Path(sys.executable).parent), str(java_home / "bin"), os.environ.get("PATH", "")]
    return ProcessGroup(
        "TorchServe",
        # Workers run under the interpreter that runs this module. Tokens are on by default.
        [sys.executable, "-m", "ts.model_server", "--start", "--foreground", "--ncs",
         "--ts-config", str(properties),
         "--model-store", str(options.archive.parent),
         "--models", f"{MODEL_NAME}={options.archive.name}"],
        cwd=options.run_dir,
        log=options.run_dir / "torchserve.log",
        env={
            "JAVA_HOME": str(java_home),
            "PATH": os.pathsep.join(path),
            "TMPDIR": str(temporary),
            "TEMP": str(temporary),  # becomes java.io.tmpdir
        },
    )  # fmt: skip


def start_gateway(options: Options) -> ProcessGroup:
    """Start the gateway, pointed at this TorchServe."""
    return ProcessGroup(
        "gateway",
        [sys.executable, "-m", "gateway"],
        cwd=ROOT,
        log=options.run_dir / "gateway.log",
        env=gateway_environment(options),
    )


def gateway_environment(options: Options) -> dict[str, str]:
    """The gateway's settings that follow from where everything is."""
    return {
        "CARID_HOST": options.host,
        "CARID_PORT": str(options.port),
        "CARID_INFERENCE_URL": f"http://{LOOPBACK}:{options.inference_port}",
        "CARID_MANAGEMENT_URL": f"http://{LOOPBACK}:{options.management_port}",
        "CARID_KEY_FILE": str(options.key_file),
        "CARID_API_KEYS_FILE": str(options.api_keys_file),
        "CARID_CANARY_FILE": str(options.canary_file),
    }


def effective_properties(source: str, options: Options) -> str:
    """The repository's config.properties with this start's addresses; all else stays as written."""
    values = {
        "inference_address": f"http://{LOOPBACK}:{options.inference_port}",
        "management_address": f"http://{LOOPBACK}:{options.management_port}",
        "metrics_address": f"http://{LOOPBACK}:{options.metrics_port}",
    }
    kept = [line for line in source.splitlines() if line.partition("=")[0].strip() not in values]
    own = [f"{key}={value}" for key, value in values.items()]
    header = "# Written by deploy/serve.py at each start from the repository's config.properties."
    return "\n".join([header, *kept, *own]) + "\n"


def wait_until(
    condition: Callable[[], bool],
    services: Sequence[ProcessGroup],
    stop: StopRequest,
    timeout: float = float("inf"),
) -> None:
    """Return once the condition holds or a stop is requested.

    Raises:
        ServeError: a service ended by itself, or the timeout (in seconds) has passed; the message
            holds the end of the log.
    """
    deadline = time.monotonic() + timeout
    while not stop and not condition():
        for service in services:
            if service.exit_code is not None:
                raise ServeError(
                    f"{service.name} ended by itself (exit code {service.exit_code}); the end of "
                    f"{shown(service.log)}:\n{service.log_end()}"
                )
        if time.monotonic() > deadline:
            logs = "\n".join(f"--- {shown(it.log)}\n{it.log_end()}" for it in services)
            raise ServeError(
                f"not ready after {timeout:.0f} s (a slow machine may need more: "
                f"CARID_STARTUP_TIMEOUT); the ends of the logs:\n{logs}"
            )
        time.sleep(0.2)


def is_ready(options: Options, torchserve_log: Path) -> bool:
    """Whether the gateway says that a photo would be answered now.

    Raises:
        ServeError: the worker fails to load the archive again and again. TorchServe would go on
            trying, and /readyz can't tell that from a slow start.
    """
    # A proxy set for the internet has no part in a call to this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{options.url}/readyz", timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):  # not listening yet, 503, or too slow an answer
        log = torchserve_log.read_text("utf-8", "replace")
    if log.count("Load model failed") >= LOAD_ATTEMPTS:
        # The adapter's own sentence about a broken archive, or else the exception of a traceback.
        reasons = re.findall(r"MODEL_LOG - .* can't be served: (.*)", log) or re.findall(
            r"MODEL_LOG - ((?:\w+\.)*\w+(?:Error|Exception): .*)", log
        )
        reason = reasons[-1] if reasons else "it died without a word"
        raise ServeError(
            f"the worker cannot load {shown(options.archive)}: {reason} "
            f"(all it said: {shown(torchserve_log)})"
        )
    return False


def announce(options: Options, seconds: float, *, key_needed: bool) -> None:
    """Say where everything is, and how to send the first photo."""
    carid = shown(Path(sys.executable).with_name("carid"))
    address = "" if options.port == 8000 else f"CARID_URL={options.url} "
    # Where the client looks for a key, so that both lines can be pasted after one export.
    export, header = "", ""
    if key_needed:
        export = "  export CARID_API_KEY=…\n"
        header = '-H "X-API-Key: $CARID_API_KEY" '
    print(
        f"""
Car Identifier is ready, after {seconds:.0f} s, at {options.url}

  web page        {options.url}/
  documentation   {options.url}/swagger/
  TorchServe      inference :{options.inference_port}, management :{options.management_port}, \
metrics :{options.metrics_port} on {LOOPBACK} only
  tokens, logs    {shown(options.run_dir)}/

Send a photo of a car:

{export}  curl {header}-F file=@photo.jpg {options.url}/v1/identify
  {address}{carid} identify photo.jpg

Ctrl-C stops everything.""",
        flush=True,
    )


def shown(path: Path) -> str:
    """The path as short as a reader in this directory needs it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


if __name__ == "__main__":
    sys.exit(main())
