"""A swap's last line: a way back is promised only where there is one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from serve_fixtures import mar

from client import draining, versions
from client.errors import VersionError
from client.management import TorchServe, Version
from client.run_dir import RunDir
from client.versions import Goldens, Versions
from deploy.model_store import archive_version


class StandInTorchServe:
    """Versions of one model, whose workers are ready at once and answer every photo."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._served: dict[str, Version] = {}

    def register(self, archive: str, workers: int) -> None:
        version = str(archive_version(self._store / archive))
        first = not self._served
        self._served[version] = Version(version, archive, first, workers, workers, 30.0, 0)

    def versions(self) -> list[Version]:
        return list(self._served.values())

    def version(self, version: str) -> Version | None:
        return self._served.get(version)

    def scale(self, version: str, workers: int) -> None:
        self._served[version] = replace(self._served[version], workers=workers, ready=workers)

    def set_default(self, version: str) -> None:
        for it in self.versions():
            self._served[it.version] = replace(it, default=it.version == version)

    def unregister(self, version: str) -> None:
        del self._served[version]

    def pass_through_queue(self, version: str) -> None:
        assert version in self._served

    def predict(self, version: str, _photo: bytes) -> tuple[int, dict[str, Any]]:
        return 200, {"model_version": version}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model store that holds 1.1 as car_identifier.mar; time passes at once."""
    for module in (versions, draining):
        monkeypatch.setattr(module.time, "sleep", lambda _: None)
    return mar(tmp_path / "store" / "car_identifier.mar", "1.1").parent


def service(store: Path, told: list[str]) -> Versions:
    """A service that serves what car_identifier.mar holds now."""
    torchserve = StandInTorchServe(store)
    torchserve.register("car_identifier.mar", 1)
    run_dir = RunDir(store.parent)
    return Versions(cast(TorchServe, torchserve), run_dir, store, told.append)


def default(service: Versions) -> str:
    [version] = [it.version for it in service.torchserve.versions() if it.default]
    return version


def test_a_way_back_is_promised_and_leads_back(store: Path, tmp_path: Path) -> None:
    told: list[str] = []
    served = service(store, told)
    served.swap(str(mar(tmp_path / "new.mar", "1.2")), Goldens())
    assert told[-1] == "1.2 serves; `carid models rollback` brings 1.1 back"
    served.rollback()
    assert default(served) == "1.1"


def test_a_way_back_to_an_archive_that_was_moved_aside_is_promised(store: Path) -> None:
    told: list[str] = []
    served = service(store, told)
    built = store / "car_identifier.mar"
    built.replace(store / "car_identifier-1.1.mar")
    served.swap(str(mar(built, "1.2")), Goldens())
    assert told[-1] == "1.2 serves; `carid models rollback` brings 1.1 back"
    served.rollback()
    assert default(served) == "1.1"


def test_no_way_back_is_promised_to_an_archive_that_was_overwritten(store: Path) -> None:
    told: list[str] = []
    served = service(store, told)
    served.swap(str(mar(store / "car_identifier.mar", "1.2")), Goldens())
    assert told[-1] == "1.2 serves; no rollback to 1.1: the model store does not hold its archive"
    with pytest.raises(VersionError, match=r"there is no version 1\.1"):
        served.rollback()
    assert default(served) == "1.2"


def test_a_damaged_archive_is_no_way_back(store: Path, tmp_path: Path) -> None:
    told: list[str] = []
    served = service(store, told)
    (store / "car_identifier.mar").write_bytes(b"half")
    served.swap(str(mar(tmp_path / "new.mar", "1.2")), Goldens())
    assert told[-1].startswith("1.2 serves; no rollback to 1.1: ")
    assert "no complete model archive" in told[-1]


def test_a_served_version_is_known_in_the_file_that_it_was_moved_to(store: Path) -> None:
    served = service(store, [])
    moved = store / "car_identifier-1.1.mar"
    (store / "car_identifier.mar").replace(moved)
    mar(store / "car_identifier.mar", "1.2")
    assert served.find(str(moved)) == ("1.1", moved.name)
