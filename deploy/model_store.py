"""What TorchServe is started with: the archive in its model store, or what was served before."""

from __future__ import annotations

import filecmp
import json
import shutil
import zipfile
from pathlib import Path

from deploy.errors import ServeError
from deploy.options import Options
from deploy.run_directory import read_json, write_json
from deploy.torchserve import NoAnswerError, Served, served_versions


def put_archive_into_store(options: Options) -> None:
    """Copy the archive into the model store, where it does not lie there already.

    A file of that name with other content is replaced: it is the archive of an earlier image or
    setting. Archives that `carid models` puts there have their version in their names.

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
        staged.replace(target)
    except OSError as error:
        raise ServeError(
            f"can't copy {options.archive} into the model store {options.model_store} "
            f"({error.strerror}): make it writable, or name another with CARID_MODEL_STORE"
        ) from error


class KeptVersions:
    """The versions that are served, remembered in RUN_DIR/served.json.

    The file holds `{"versions": [{"version": "1.1", "archive": "car_identifier.mar"}, …]}`, the
    default version first. It is written by looking at TorchServe, so it does not matter who
    registered what.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._path = options.run_dir / "served.json"

    def to_serve(self) -> list[str]:
        """Archives of the model store to start with, the default version's first.

        A version whose archive is gone, or holds another version by now, is left out; without the
        default version nothing is left but the archive of the settings.
        """
        if self._options.keep_versions:
            try:
                kept = [(it["archive"], it["version"]) for it in read_json(self._path)["versions"]]
            except (LookupError, TypeError):  # none yet, or written by hand
                kept = []
            store = self._options.model_store
            found = [name for name, version in kept if archive_version(store / name) == version]
            if found and found[0] == kept[0][0]:
                return found
        return [self._options.archive.name]

    def remember(self) -> None:
        """Write down what is served now, if that can be known and has changed."""
        if not self._options.keep_versions:
            return
        try:
            served = served_versions(self._options.management_url, self._options.key_file)
        except NoAnswerError:
            return
        # A version without a ready worker is being loaded, drained, or broken: not one to begin
        # with. If that is the default one, what was known before is worth more.
        if not served[0].ready:
            return
        content = {"versions": [_entry(it) for it in served if it.ready]}
        if content != read_json(self._path):
            write_json(self._path, content)


def archive_version(path: Path) -> str | None:
    """The version that TorchServe will give the archive; None if it is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return str(json.loads(archive.read("MAR-INF/MANIFEST.json"))["model"]["modelVersion"])
    except (OSError, zipfile.BadZipFile, ValueError, LookupError, TypeError):
        return None


def _entry(served: Served) -> dict[str, str]:
    return {"version": served.version, "archive": served.archive}
