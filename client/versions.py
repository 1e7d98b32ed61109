"""Changing the served version under load: swap, rollback, and what they are made of.

Each step can be the last one before a crash: what the next command has to know is written to the
run directory first, and every step finds what an earlier try has left.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

from client.archives import archive_name, archive_version, put_into_store, same_content
from client.draining import drain_and_unregister
from client.errors import TorchServeError, VersionError
from client.golden import compare, golden_photos, probe_photo
from client.management import TorchServe, Version
from client.run_dir import RunDir

__all__ = ["Goldens", "Versions"]

# The gateway looks at the files of the canary and of a retiring version each time before it asks
# TorchServe: this is for what it sent just before they changed, to reach TorchServe's queue.
_UNDER_WAY_S = 1.5

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Goldens:
    """How a new version has to prove itself.

    Attributes:
        folder: of photos that the old version knows; None measures no agreement.
        min_agreement: 0…1, share of the photos the old version identified.
    """

    folder: Path | None = None
    min_agreement: float = 0.9


@dataclass(frozen=True, slots=True)
class Versions:
    """The versions of one service.

    Every method raises VersionError where it stops, with what is served then.

    Attributes:
        torchserve: the service's TorchServe.
        run_dir: the service's run directory.
        model_store: the folder that TorchServe was started with; None if that is not known.
        tell: gets a line about each step.
    """

    torchserve: TorchServe
    run_dir: RunDir
    model_store: Path | None
    tell: Tell = field(default=lambda line: None)

    def swap(self, wanted: str, goldens: Goldens) -> None:
        """Serve another version: a path of an archive, or the number of a version in the store.

        Safe to run again, whatever became of an earlier run.
        """
        self.run_dir.read_canary()  # says so while nothing has changed, if it can't be read
        self._change(wanted, goldens)

    def rollback(self) -> None:
        """Serve the version again that the last swap took away, or was about to.

        An interrupted rollback, run again, goes on to where it went. A canary's file that says
        nothing does not stop it.
        """
        try:
            self.run_dir.read_canary()
        except VersionError as error:
            self.tell(f"going on without a canary: {error}")
        state = self.run_dir.read_state()
        swapping = state.get("swapping")
        if swapping and swapping.get("back"):
            before = swapping["to"]
        elif earlier := swapping["from"] if swapping else state.get("previous"):
            before = earlier["version"]
        else:
            raise VersionError("there has been no swap here: name a version to `swap` to")
        self.tell(f"going back to {before}")
        self._change(before, Goldens(folder=None), back=True)

    def _change(self, wanted: str, goldens: Goldens, *, back: bool = False) -> None:
        version, archive = self.find(wanted)
        old = self._default()
        if old.version == version:
            if not self._finish(version):
                self.tell(f"{version} is the default already: nothing to do")
            return
        self._finish(version)
        added = self._remember(old, version, back=back)
        with self._undone_on_failure(old.version, version, added):
            self.register(archive, version, workers=max(old.workers, 1))
            self._prove(old.version, version, goldens)
            self.tell(f"making {version} the default")
            self.torchserve.set_default(version)
            self._expect_answer(version)
        try:
            self._finish(version)
        except VersionError as error:
            raise VersionError(
                f"{version} serves, but {error}. The same command again finishes"
            ) from error
        self.tell(f"{version} serves; {self._way_back(old)}")

    def find(self, wanted: str) -> tuple[str, str]:
        """The version and its file in the model store, copied there if need be."""
        path = Path(wanted)
        registered = {it.version: it for it in self.torchserve.versions()}
        if path.is_file() or path.suffix == ".mar":
            version = archive_version(path)
            if version not in registered:
                return version, put_into_store(path, self._store())
            archive = registered[version].archive
            # By now another version may lie under that name, and this one beside it.
            archive = self._stored(version, archive) or archive
            if not same_content(path, self._store() / archive):
                raise VersionError(
                    f"version {version} is served from {archive}, whose content is not that of "
                    f"{path}: build the archive under a new version"
                )
            return version, archive
        if wanted in registered:
            return wanted, registered[wanted].archive
        state = self.run_dir.read_state()
        known = (state.get("swapping", {}).get("from"), state.get("previous"))
        names = [it["archive"] for it in known if it and it["version"] == wanted]
        if stored := self._stored(wanted, *names):
            return wanted, stored
        raise VersionError(
            f"there is no version {wanted}, neither registered nor as {archive_name(wanted)} in "
            "the model store: name the path of its archive"
        )

    def register(self, archive: str, version: str, workers: int = 1) -> None:
        """Have a version's workers ready; they check themselves before they say so."""
        found = self.torchserve.version(version)
        if found and found.ready == found.workers >= workers:
            self.tell(f"{version} is registered and ready")
            return
        self.tell(f"registering {version}: its workers load and check themselves")
        try:
            if found:
                # It has too few: as a canary has, or what an earlier try did not bring to its end.
                workers = max(workers, found.ready)
                self.torchserve.scale(version, workers)
            else:
                # A registration says that it is done when its first worker is ready.
                self.torchserve.register(archive, 1)
                if workers > 1:
                    self.torchserve.scale(version, workers)
            registered = self.torchserve.version(version)
            if registered is None or registered.ready < workers:
                raise TorchServeError("its workers are not ready")
        except BaseException as error:
            # Only what answered nobody before may go.
            answered = found is not None and found.ready > 0
            left = self.torchserve.version(version)
            if left and not left.default and not answered:
                self.torchserve.unregister(version)
            if isinstance(error, TorchServeError):
                raise VersionError(
                    f"{version} can't be registered: {error}. The reason is in "
                    f"{self.run_dir.torchserve_log}"
                ) from error
            raise

    def remove(self, version: str) -> None:
        """Answer what a version was asked, then remove it; its archive stays in the store."""
        self.run_dir.read_canary()  # as in `swap`
        self._remove(version)

    def _remove(self, version: str) -> None:
        found = self.torchserve.version(version)
        if found is None:
            raise VersionError(f"version {version} is not registered")
        if found.default:
            raise VersionError(f"version {version} is the default: swap to another one first")
        if self._canary() == version:
            self.tell(f"turning the canary {version} off")
            self._end_canary()
        self.tell(f"draining {version}")
        self.run_dir.write_retiring(version)
        try:
            time.sleep(_UNDER_WAY_S)
            drain_and_unregister(self.torchserve, found)
        finally:
            self.run_dir.remove_retiring()
        self.tell(f"{version} is unregistered")

    def scale(self, workers: int, version: str | None = None) -> None:
        """Give a version, or else the default one, so many workers."""
        chosen = version or self._default().version
        if self.torchserve.version(chosen) is None:
            raise VersionError(f"version {chosen} is not registered")
        self.tell(f"scaling {chosen} to {workers} worker{'s' * (workers != 1)}")
        self.torchserve.scale(chosen, workers)

    def canary(self, wanted: str | None, share: float) -> None:
        """Send a share of the requests to a version, registered if it is not; None to stop it."""
        if wanted is None:
            self.run_dir.remove_canary()
            self.tell("the canary is off; its version stays registered")
            return
        version, archive = self.find(wanted)
        if version == self._default().version:
            raise VersionError(f"version {version} is the default: it answers already")
        self.register(archive, version)
        self.run_dir.write_canary(version, share)
        self.tell(f"{version} gets {share:.0%} of the requests that name no version")

    def _prove(self, old: str, new: str, goldens: Goldens) -> None:
        if goldens.folder is None:
            self._expect_answer(new)
            self.tell(
                f"{new} answers a probe photo; agreement with {old} was not measured (--photos)"
            )
            return
        photos = golden_photos(goldens.folder)
        self.tell(f"asking {old} and {new} about {len(photos)} golden photos")
        agreement = compare(self.torchserve, old, new, photos)
        for line in agreement.differences:
            self.tell(f"  {line}")
        if not agreement.identified:
            self.tell(f"{old} identifies none of them: agreement was not measured")
            return
        self.tell(
            f"{new} agrees on {agreement.agreed} of the {agreement.identified} photos that {old} "
            f"identifies ({agreement.share:.0%})"
        )
        if agreement.share < goldens.min_agreement:
            raise VersionError(
                f"{new} agrees on {agreement.share:.0%} of the golden photos, and at least "
                f"{goldens.min_agreement:.0%} were asked for (--min-agreement)"
            )

    def _expect_answer(self, version: str) -> None:
        status, body = self.torchserve.predict(version, probe_photo())
        if status != HTTPStatus.OK or body.get("model_version") != version:
            raise VersionError(
                f"{version} does not answer a probe photo as itself (HTTP {status}, "
                f"model_version {body.get('model_version')!r})"
            )

    @contextmanager
    def _undone_on_failure(self, old: str, new: str, added: bool) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            if self._default().version != old:
                self.tell(f"making {old} the default again")
                self.torchserve.set_default(old)
            if added and self.torchserve.version(new):
                self._remove(new)
            self._forget()
            if isinstance(error, VersionError):
                raise VersionError(f"not swapped: {error}. {old} still serves") from error
            raise

    def _finish(self, wanted: str) -> bool:
        """Remove what an interrupted swap has left, but not the wanted version.

        Returns:
            Whether there was something to finish.
        """
        state = self.run_dir.read_state()
        swapping = state.get("swapping")
        if swapping is None:
            return False
        default = self._default().version
        old, new = swapping["from"], swapping["to"]
        if self._canary() == default:
            self.tell(f"turning the canary off: {default} is the default now")
            self._end_canary()
        done = default == new
        left = old["version"] if done else new if swapping["added"] else default
        if left not in (default, wanted) and self.torchserve.version(left):
            self._remove(left)
        if done:
            self.run_dir.write_state({"previous": old})
        elif wanted != new:
            self._forget()
        return True

    def _canary(self) -> str | None:
        """The version that is on trial; None also where the file can't be read."""
        try:
            canary = self.run_dir.read_canary()
        except VersionError:
            return None
        return canary[0] if canary else None

    def _end_canary(self) -> None:
        self.run_dir.remove_canary()
        time.sleep(_UNDER_WAY_S)

    def _remember(self, old: Version, new: str, *, back: bool) -> bool:
        """Write down what is about to happen.

        Returns:
            Whether the new version is there for this swap only: it goes if the swap fails.
        """
        state = self.run_dir.read_state()
        earlier = state.get("swapping", {"to": None})
        added = self.torchserve.version(new) is None or (earlier["to"] == new and earlier["added"])
        before = {"version": old.version, "archive": old.archive}
        swapping = {"from": before, "to": new, "added": added, "back": back}
        self.run_dir.write_state({**state, "swapping": swapping})
        return added

    def _forget(self) -> None:
        state = self.run_dir.read_state()
        if state.pop("swapping", None):
            self.run_dir.write_state(state)

    def _way_back(self, old: Version) -> str:
        """What to say of a rollback to the version that has just been removed."""
        try:
            stored = self._stored(old.version, old.archive)
        except VersionError as error:
            return f"no rollback to {old.version}: {error}"
        if stored is None:
            return f"no rollback to {old.version}: the model store does not hold its archive"
        return f"`carid models rollback` brings {old.version} back"

    def _stored(self, version: str, *names: str) -> str | None:
        """The file of the model store that holds the version: one of these, or the usual one."""
        for name in (*names, archive_name(version)):
            path = self._store() / name
            if path.is_file() and archive_version(path) == version:
                return name
        return None

    def _default(self) -> Version:
        for version in self.torchserve.versions():
            if version.default:
                return version
        raise VersionError("no version is served: start the service first (`make serve`)")

    def _store(self) -> Path:
        if self.model_store is None:
            raise VersionError(
                f"can't tell the model store from {self.run_dir.path}: name the folder that "
                "TorchServe was started with (--model-store, CARID_MODEL_STORE)"
            )
        return self.model_store
