"""How the two services are started: their commands, their settings, their logs."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.options import ROOT, Options
from deploy.preflight import find_java
from deploy.process_group import ProcessGroup
from deploy.run_directory import writing_to
from deploy.torchserve import MODEL_NAME

# Log4j's settings for logs on the console; its own write each line into files as well.
_CONSOLE_LOGGING = Path(__file__).with_name("log4j2-console.xml")


def start_torchserve(options: Options, archives: Sequence[str], temporary: Path) -> ProcessGroup:
    """Start TorchServe in the run directory, with the repository's configuration.

    Args:
        options: where it listens and logs.
        archives: file names in the model store; the first one's version becomes the default.
        temporary: for what it keeps while it runs.

    Raises:
        ServeError: its files can't be written.
    """
    java_home = find_java()
    properties = options.run_dir / "config.properties"
    source = (ROOT / "config.properties").read_text("utf-8")
    with writing_to(options.run_dir):
        properties.write_text(effective_properties(source, options), "utf-8")
        # Beside it, as in the repository: the path in config.properties is relative.
        shutil.copyfile(ROOT / "metrics.yaml", options.run_dir / "metrics.yaml")
    path = [str(Path(sys.executable).parent), str(java_home / "bin"), os.environ.get("PATH", "")]
    logging = ["--log-config", str(_CONSOLE_LOGGING)] if options.logs_to_console else []
    return ProcessGroup(
        "TorchServe" if not options.logs_to_console else "torchserve",
        # Workers run under the interpreter that runs this module. Tokens are on by default.
        [sys.executable, "-m", "ts.model_server", "--start", "--foreground", "--ncs",
         "--ts-config", str(properties),
         "--model-store", str(options.model_store), *logging,
         "--models", *(f"{MODEL_NAME}={archive}" for archive in archives)],
        cwd=options.run_dir,
        log=_log(options, "torchserve.log"),
        env={
            "JAVA_HOME": str(java_home),
            "PATH": os.pathsep.join(path),
            "TMPDIR": str(temporary),
            "TEMP": str(temporary),  # becomes java.io.tmpdir
        },
    )  # fmt: skip


def start_gateway(options: Options) -> ProcessGroup:
    """Start the gateway, pointed at this TorchServe.

    Raises:
        ServeError: its log can't be written.
    """
    return ProcessGroup(
        "gateway",
        [sys.executable, "-m", "gateway"],
        cwd=ROOT,
        log=_log(options, "gateway.log"),
        env=gateway_environment(options),
    )


def _log(options: Options, name: str) -> Path | None:
    if options.logs_to_console:
        return None
    log = options.run_dir / name
    with writing_to(options.run_dir):
        log.touch()  # here, where what goes wrong is no other error of starting a process
    return log


def gateway_environment(options: Options) -> dict[str, str]:
    """The gateway's settings that follow from where everything is."""
    return {
        "CARID_HOST": options.host,
        "CARID_PORT": str(options.port),
        "CARID_DRAIN_S": str(options.drain_s),
        "CARID_INFERENCE_URL": options.inference_url,
        "CARID_MANAGEMENT_URL": options.management_url,
        "CARID_METRICS_URL": options.metrics_url,
        "CARID_KEY_FILE": str(options.key_file),
        "CARID_API_KEYS_FILE": str(options.api_keys_file),
        "CARID_CANARY_FILE": str(options.canary_file),
    }


def effective_properties(source: str, options: Options) -> str:
    """The repository's config.properties with this start's addresses; all else stays as written."""
    values = {
        "inference_address": options.inference_url,
        "management_address": options.management_url,
        "metrics_address": options.metrics_url,
    }
    kept = [line for line in source.splitlines() if line.partition("=")[0].strip() not in values]
    own = [f"{key}={value}" for key, value in values.items()]
    header = (
        "# Written by deploy/services.py at each start from the repository's config.properties."
    )
    return "\n".join([header, *kept, *own]) + "\n"
