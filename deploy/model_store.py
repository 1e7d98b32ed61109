"""What TorchServe is started with: the archive in its model store, or what was served before."""

from __future__ import annotations

import contextlib
import filecmp
import json
import re
import shutil
import sys
import zipfile
from pathlib import Path
from typing import IO, Any

from deploy.errors import ServeError
from deploy.options import Options
from deploy.run_directory import read_json, write_json
from deploy.torchserve import MODEL_NAME, NoAnswerError, Served, served_versions


def put_archive_into_store(options: Options) -> None:
    """Copy the archive into the model store, where it does not lie there already.

    A file of that name with other content is the archive of an earlier image or setting. If that is
    another version it gets its version into its name, as those that `carid models` puts there:
    `carid models rollback` finds it so. An earlier build of the same version is replaced.

    Raises:
        ServeError: the store can't be written.
    """
    target = options.model_store / options.archive.name
    if target == options.archive:
        return
    staged = target.with_suffix(".mar.new")
    try:
        options.model_store.mkdir(parents=True, exist_ok=True)
        if target.is_file() and filecmp.cmp(options.archive, target, shallow=False):
            return
        shutil.copyfile(options.archive, staged)
        _keep_other_version(target, archive_version(options.archive))
        staged.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            staged.unlink(missing_ok=True)  # on a full disk, half of an archive
        raise ServeError(
            f"can't copy {options.archive} into the model store {options.model_store} "
            f"({error.strerror}): make room there, make it writable, or name another with "
            "CARID_MODEL_STORE"
        ) from error


def _keep_other_version(old: Path, coming: str | None) -> None:
    """Move an archive that is about to be replaced to the name that its version has."""
    version = archive_version(old)
    # The version becomes part of a file's name: only what looks like one may.
    if version in (None, coming) or not re.fullmatch(r"\d+(\.\d+)*", str(version)):
        return
    named = old.with_name(f"{MODEL_NAME}-{version}.mar")
    if archive_version(named) != version:  # else it has been put there by a swap
        old.replace(named)


class KeptVersions:
    """The versions that are served, remembered in RUN_DIR/served.json.

    The file holds `{"configured": {"version": "1.1", "archive": "car_identifier.mar"}, "versions":
    [{"version": "1.2", "archive": "car_identifier-1.2.mar"}, …]}`: the archive of the settings, and
    what was served, the default version first. It is written by looking at TorchServe, so it does
    not matter who registered what.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._path = options.run_dir / "served.json"
        # As it is at the start: the file may be replaced while its content is served.
        version = archive_version(options.archive)
        self._configured = {"version": version, "archive": options.archive.name}
        self._warned = False

    def to_serve(self) -> list[str]:
        """Archives of the model store to start with, the default version's first.

        A version whose archive is gone, or holds another version by now, is left out; without the
        default version nothing is left but the archive of the settings. Nor is anything left if
        these name another archive than when it was remembered: what was changed on purpose is not
        overruled by what was served before. A new image that brings a new version under the old
        name is no such change, and takes nothing from a version that was swapped in. Whatever is
        served other than the archive of the settings, or is not served again, is told.
        """
        settings = [self._options.archive.name]
        known = read_json(self._path) if self._options.keep_versions else {}
        kept = _versions(known)
        reasons = {it: self._missing(*it) for it in kept}
        before = known.get("configured", self._configured)
        if _archive(before) != self._configured["archive"]:
            reason = f"CARID_ARCHIVE was {_shown(before)} then, and is {_shown(self._configured)}"
            reasons = dict.fromkeys(kept, reason)
        elif kept and reasons[kept[0]]:
            reason = f"the default version that it was served beside, {kept[0][0]}, is not there"
            reasons |= {it: missing or reason for it, missing in reasons.items() if it != kept[0]}
        for (version, archive), reason in reasons.items():
            # What the settings have served anyway is not left out, whatever is left of the rest.
            if reason and self._configured != {"version": version, "archive": archive}:
                _tell(f"version {version} ({archive}) is not served again: {reason}")
        found = [it for it in kept if not reasons[it]]
        if not found:
            return settings
        archives = [archive for _, archive in found]
        if archives != settings:
            beside = "".join(f", beside it {version}" for version, _ in found[1:])
            _tell(
                f"serving version {found[0][0]} ({archives[0]}){beside}, as before the restart "
                f"(CARID_KEEP_VERSIONS); CARID_ARCHIVE is {_shown(self._configured)}"
            )
        return archives

    def _missing(self, version: str, archive: str) -> str:
        """Why a version can't be started with; empty if it can."""
        path = self._options.model_store / archive
        found = archive_version(path)
        if found == version:
            return ""
        if not path.is_file():
            return f"there is no {archive} in the model store {path.parent} any longer"
        return f"{path} {'holds version ' + found if found else 'is no archive'} now"

    def remember(self) -> None:
        """Write down what is served now, if that can be known and has changed.

        A file that can't be written, as on a full disk, is told once: the service goes on.
        """
        if not self._options.keep_versions:
            return
        try:
            served = served_versions(self._options.management_url, self._options.key_file)
        except NoAnswerError:
            return
        known = read_json(self._path)
        before = _versions(known)

        # A version that has not been ready yet is not one to begin with: it may be broken. One that
        # has been may have lost its worker for a moment. One that was scaled to none answers
        # nobody, on purpose or since it is being removed: a restart would give it a worker.
        def counts(it: Served) -> bool:
            return it.ready > 0 or (it.workers > 0 and (it.version, it.archive) in before)

        # If the default version does not count, what was known before is worth more.
        if not counts(served[0]):
            return
        content = {
            "configured": self._configured,
            "versions": [_entry(it) for it in served if counts(it)],
        }
        if content == known:
            return
        try:
            write_json(self._path, content)
            self._warned = False
        except OSError as error:
            if not self._warned:
                _tell(
                    f"warning: can't write {self._path} ({error.strerror}): a restart would not "
                    "serve what is served now; make room there, or make it writable",
                    sys.stderr,
                )
            self._warned = True


def archive_version(path: Path) -> str | None:
    """The version that TorchServe will give the archive; None if it is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return str(json.loads(archive.read("MAR-INF/MANIFEST.json"))["model"]["modelVersion"])
    except (OSError, zipfile.BadZipFile, ValueError, LookupError, TypeError):
        return None


def _versions(known: dict[str, Any]) -> list[tuple[str, str]]:
    """Versions and archives of a file; none if it is new, or was written by hand."""
    try:
        return [(str(it["version"]), str(it["archive"])) for it in known["versions"]]
    except (LookupError, TypeError):
        return []


def _entry(served: Served) -> dict[str, str]:
    return {"version": served.version, "archive": served.archive}


def _archive(configured: Any) -> object:
    return configured.get("archive") if isinstance(configured, dict) else None


def _shown(configured: Any) -> str:
    try:
        return f"{configured['archive']}, version {configured['version']}"
    except (LookupError, TypeError):  # written by hand
        return "another"


def _tell(line: str, stream: IO[str] | None = None) -> None:
    # Where nobody reads, or the disk that gets this is full too, the service goes on.
    with contextlib.suppress(OSError):
        print(line, file=stream, flush=True)
