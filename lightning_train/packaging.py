"""From a folder of model files to a .mar: the handler's own code goes in beside the model."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Literal

import handler

__all__ = ["MODEL_NAME", "check_version", "package"]

MODEL_NAME = "car_identifier"
_HANDLER = Path(handler.__file__).parent


def package(
    content: Path, model_file: str, version: str, out: Path, device: Literal["cpu", "gpu"] = "cpu"
) -> None:
    """Run torch-model-archiver over a folder.

    An archive of another version that `out` holds is kept beside it, as car_identifier-OLD.mar:
    `carid models rollback` finds it there.

    Args:
        content: everything the archive shall hold but the handler; left as it is.
        model_file: the file in it that TorchServe calls the serialized one.
        version: version of the archive.
        out: the .mar to write. It is moved into place whole: a server that starts meanwhile sees
            the old archive or the new.
        device: `deviceType` of the archive's model-config.yaml.

    Raises:
        ValueError: the version is none.
    """
    check_version(version)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        extra_files = work / "extra"
        shutil.copytree(content, extra_files, ignore=shutil.ignore_patterns(model_file))
        shutil.copytree(
            _HANDLER,
            extra_files / "handler",
            ignore=shutil.ignore_patterns(
                "__pycache__", "torchserve_handler.py", "model-config.yaml"
            ),
        )
        _write_config(work / "model-config.yaml", device)
        subprocess.run(  # noqa: S603  (our own arguments)
            [
                *(sys.executable, "-c"),
                "from model_archiver.model_packaging import generate_model_archive as run; run()",
                *("--model-name", MODEL_NAME, "--version", version),
                *("--serialized-file", str(content / model_file)),
                *("--handler", str(_HANDLER / "torchserve_handler.py")),
                *("--config-file", str(work / "model-config.yaml")),
                *("--extra-files", str(extra_files)),
                *("--export-path", str(work)),
            ],
            check=True,
            # It works in $TMPDIR/MODEL_NAME, which two builds at a time must not share.
            env={**os.environ, "TMPDIR": str(work)},
        )
        out.parent.mkdir(parents=True, exist_ok=True)
        staged = out.with_suffix(".mar.new")
        shutil.copyfile(work / f"{MODEL_NAME}.mar", staged)
        _keep_other_version(out, version)
        staged.replace(out)


def check_version(version: str) -> None:
    """Refuse what `carid models` would: a version becomes part of a file's name and of addresses.

    Raises:
        ValueError: it is not made of numbers and dots.
    """
    if not re.fullmatch(r"\d+(\.\d+)*", version):
        raise ValueError(f"{version!r} is no version: name it with numbers and dots, as 1.2")


def _keep_other_version(old: Path, coming: str) -> None:
    """Move an archive that is about to be replaced to the name that its version has."""
    try:
        with zipfile.ZipFile(old) as archive:
            manifest = json.loads(archive.read("MAR-INF/MANIFEST.json"))
        version = str(manifest["model"]["modelVersion"])
        check_version(version)
    except (OSError, zipfile.BadZipFile, ValueError, LookupError, TypeError):
        return  # there is none, or nothing that could be served
    named = old.with_name(f"{MODEL_NAME}-{version}.mar")
    # One that is there already has been put there by a swap, and may be what is served.
    if version != coming and not named.exists():
        old.replace(named)
        print(f"{old} held version {version}: it is {named} now")


def _write_config(path: Path, device: str) -> None:
    """The handler's TorchServe settings, comments and all, for this device."""
    config = (_HANDLER / "model-config.yaml").read_text(encoding="utf-8")
    config, changed = re.subn(r"(?m)^deviceType: cpu\b", f"deviceType: {device}", config)
    if changed != 1:
        raise RuntimeError("handler/model-config.yaml has no line 'deviceType: cpu'")
    path.write_text(config, encoding="utf-8")
