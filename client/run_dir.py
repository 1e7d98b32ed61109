"""The run directory of `make serve`: where TorchServe is, and what swaps have to remember."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.errors import VersionError
from gateway.shared_file import OwnerError, lock_for_all, new_file_for_all

__all__ = ["RunDir"]

_INFERENCE_URL = "http://127.0.0.1:8080"
_MANAGEMENT_URL = "http://127.0.0.1:8081"


@dataclass(frozen=True, slots=True)
class RunDir:
    """The files in it that the commands on versions read and write.

    Attributes:
        path: the directory.
    """

    path: Path

    @property
    def key_file(self) -> Path:
        """TorchServe's keys."""
        return self.path / "key_file.json"

    @property
    def torchserve_log(self) -> str:
        """Where to read what TorchServe said: its file, unless its lines are printed."""
        file = self.path / "torchserve.log"
        return f"TorchServe's log ({file})" if file.is_file() else "the service's log"

    @property
    def inference_url(self) -> str:
        """Where this TorchServe takes photos; the usual address if that isn't written there."""
        return self._service("inference_url") or _INFERENCE_URL

    @property
    def management_url(self) -> str:
        """Where it is managed; the usual address if that isn't written there."""
        return self._service("management_url") or _MANAGEMENT_URL

    @property
    def model_store(self) -> Path | None:
        """The folder it was started with: it takes archives from no other place."""
        store = self._service("model_store")
        return Path(store) if store else None

    def _service(self, what: str) -> str | None:
        """What the launcher wrote into `service.json` at the service's start."""
        value = _read(self.path / "service.json").get(what)
        return None if value is None else str(value)

    @contextmanager
    def only_one_at_a_time(self) -> Iterator[None]:
        """Keep a second command from changing versions meanwhile.

        Raises:
            VersionError: one is at it, or there is no such directory.
        """
        with ExitStack() as stack:
            try:
                lock = stack.enter_context(lock_for_all(self.path / "versions.lock"))
            except OSError as error:
                raise VersionError(self._not_writable(error)) from error
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise VersionError(
                    f"another command is changing versions in {self.path}: wait until it is done"
                ) from error
            self.remove_retiring()  # left by a command that was killed
            yield

    def _not_writable(self, error: OSError) -> str:
        way_out = (
            "run this as the service's own user, or as root"
            if isinstance(error, PermissionError)
            else "name the one that the service was started with (--run-dir, CARID_RUN_DIR)"
        )
        return f"can't write to the run directory {self.path} ({error.strerror}): {way_out}"

    def read_state(self) -> dict[str, Any]:
        """What `write_state` wrote; empty if it never did."""
        return _read(self.path / "versions.json")

    def write_state(self, state: Mapping[str, Any]) -> None:
        """Remember it for the next command."""
        _write(self.path / "versions.json", state)

    def read_canary(self) -> tuple[str, float] | None:
        """The canary's version and its share of the requests; None if there is no canary.

        Raises:
            VersionError: its file says something else, so that the gateway knows no canary.
        """
        path = self.path / "canary.json"
        canary = _read(path)
        if not canary and not path.exists():
            return None
        version, share = canary.get("version"), canary.get("share", -1)
        # As the gateway has it, which ignores anything else.
        is_share = isinstance(share, int | float) and type(share) is not bool and 0 <= share <= 1
        if canary.keys() != {"version", "share"} or not isinstance(version, str) or not is_share:
            raise VersionError(
                f'{path} is not like {{"version": "1.2", "share": 0.1}}, so the gateway ignores '
                "it: mend it, or remove it with `carid models canary --off`"
            )
        return version, float(share)

    def write_canary(self, version: str, share: float) -> None:
        """Have the gateway send this share of the requests to the version from now on."""
        _write(self.path / "canary.json", {"version": version, "share": share})

    def remove_canary(self) -> None:
        """Have the gateway send everything to the default version from now on."""
        _remove(self.path / "canary.json")

    def write_retiring(self, version: str) -> None:
        """Have the gateway refuse who asks for the version from now on."""
        _write(self.path / "retiring.json", {"version": version})

    def remove_retiring(self) -> None:
        """Have the gateway pass on whatever version is asked for."""
        _remove(self.path / "retiring.json")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise VersionError(f"can't read {path}: {error}. Mend or remove it.") from error
    if not isinstance(content, dict):
        raise VersionError(f"{path} holds no JSON object: mend or remove it")
    return content


def _write(path: Path, content: Mapping[str, Any]) -> None:
    try:
        with new_file_for_all(path) as file:
            file.write(json.dumps(content, indent=1).encode())
    except OwnerError as error:
        raise VersionError(str(error)) from error
    except OSError as error:
        raise VersionError(
            f"can't write {path} ({error.strerror}): make room there, or make it writable"
        ) from error


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise VersionError(
            f"can't remove {path} ({error.strerror}): make its directory writable"
        ) from error
