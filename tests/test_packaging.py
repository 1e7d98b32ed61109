"""Archives as files: which versions they may have, and what becomes of the one before."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import cast

import pytest
from serve_fixtures import NoVersions, mar

from client.archives import is_version
from client.management import TorchServe
from client.run_dir import RunDir
from client.versions import Versions
from deploy.model_store import archive_version
from lightning_train.packaging import check_version, package


@pytest.fixture
def content(tmp_path: Path) -> Path:
    """A folder of a model's files, as small as can be."""
    folder = tmp_path / "content"
    folder.mkdir()
    (folder / "model.xml").touch()
    return folder


def test_an_archive_of_another_version_is_kept_where_a_rollback_finds_it(
    tmp_path: Path, content: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "store" / "car_identifier.mar"
    before = mar(out, "1.1").read_bytes()
    package(content, "model.xml", "1.2", out)
    assert archive_version(out) == "1.2"
    kept = out.with_name("car_identifier-1.1.mar")
    assert kept.read_bytes() == before
    assert f"{out} held version 1.1: it is {kept} now" in capsys.readouterr().out

    run_dir = RunDir(tmp_path)
    run_dir.write_state({"previous": {"version": "1.1", "archive": out.name}})
    versions = Versions(cast(TorchServe, NoVersions()), run_dir, out.parent)
    assert versions.find("1.1") == ("1.1", kept.name)


def test_an_archive_of_the_same_version_is_replaced_without_a_word(
    tmp_path: Path, content: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "store" / "car_identifier.mar"
    before = mar(out, "1.1").read_bytes()
    package(content, "model.xml", "1.1", out)
    assert out.read_bytes() != before
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    out.write_bytes(b"half a download")
    package(content, "model.xml", "1.1", out)
    assert archive_version(out) == "1.1"
    assert "held version" not in capsys.readouterr().out


def test_what_a_swap_put_into_the_store_is_not_replaced(tmp_path: Path, content: Path) -> None:
    out = mar(tmp_path / "store" / "car_identifier.mar", "1.1")
    swapped_in = mar(out.with_name("car_identifier-1.1.mar"), "1.1")
    with zipfile.ZipFile(swapped_in, "a") as file:
        file.writestr("more", "")
    before = swapped_in.read_bytes()
    package(content, "model.xml", "1.2", out)
    assert swapped_in.read_bytes() == before


@pytest.mark.parametrize("version", ["1", "1.2", "99.0", "2.10.3"])
def test_a_version_is_made_of_numbers_and_dots(version: str) -> None:
    check_version(version)
    assert is_version(version), "and `carid models` takes it"


@pytest.mark.parametrize("version", ["v2", "", "1.", "1.2-rc1", "../1", "1 2", "1.2\n"])
def test_what_carid_models_would_refuse_is_refused_before_it_is_built(
    tmp_path: Path, content: Path, version: str
) -> None:
    assert not is_version(version)
    with pytest.raises(ValueError, match="numbers and dots"):
        package(content, "model.xml", version, tmp_path / "store" / "car_identifier.mar")
    assert not (tmp_path / "store").exists()
