"""A swap's last line promises a way back only where there is one; a canary's file may be broken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic import ValidationError
from serve_fixtures import mar
from typer.testing import CliRunner

from client import draining, model_commands, versions
from client.errors import VersionError
from client.management import TorchServe, Version
from client.run_dir import RunDir
from client.versions import Goldens, Versions
from deploy.model_store import archive_version
from gateway.canary import _Assignment


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


# --- a canary's file that says nothing ----------------------------------------------------------

NO_CANARIES = [
    '{"version": "1.2"}',
    '{"version": "1.2", "share": "a tenth"}',
    '{"version": "1.2", "share": true}',
    '{"version": "1.2", "share": 10}',
    '{"version": "1.2", "share": NaN}',
    '{"version": 1.2, "share": 0.1}',
    '{"version": "1.2", "share": 0.1, "since": "today"}',
    "{}",
    "[]",
    "{",
]


@pytest.mark.parametrize("text", NO_CANARIES)
def test_what_the_gateway_takes_for_no_canary_is_an_error_that_names_its_file(
    tmp_path: Path, text: str
) -> None:
    file = tmp_path / "canary.json"
    file.write_text(text)
    with pytest.raises(ValidationError):
        _Assignment.model_validate_json(text)
    with pytest.raises(VersionError, match=r"canary\.json.* (mend|Mend)") as caught:
        RunDir(tmp_path).read_canary()
    assert "\n" not in str(caught.value)


def test_a_swap_looks_at_the_canary_before_it_changes_anything(store: Path, tmp_path: Path) -> None:
    told: list[str] = []
    served = service(store, told)
    (tmp_path / "canary.json").write_text(NO_CANARIES[0])
    with pytest.raises(VersionError, match=r"canary\.json .*`carid models canary --off`"):
        served.swap(str(mar(tmp_path / "new.mar", "1.2")), Goldens())
    assert [it.version for it in served.torchserve.versions()] == ["1.1"]
    assert served.run_dir.read_state() == {}
    assert sorted(path.name for path in store.iterdir()) == ["car_identifier.mar"]
    served.canary(None, 0)
    served.swap(str(tmp_path / "new.mar"), Goldens())
    assert default(served) == "1.2"


def test_a_version_is_not_removed_where_nobody_can_tell_whether_it_is_the_canary(
    store: Path, tmp_path: Path
) -> None:
    served = service(store, [])
    served.register(*reversed(served.find(str(mar(tmp_path / "new.mar", "1.2")))))
    (tmp_path / "canary.json").write_text(NO_CANARIES[0])
    with pytest.raises(VersionError, match=r"canary\.json"):
        served.remove("1.2")
    assert served.torchserve.version("1.2")


def test_a_rollback_goes_back_whatever_the_canarys_file_says(store: Path, tmp_path: Path) -> None:
    told: list[str] = []
    served = service(store, told)
    served.swap(str(mar(tmp_path / "new.mar", "1.2")), Goldens())
    (tmp_path / "canary.json").write_text(NO_CANARIES[0])
    told.clear()
    served.rollback()
    assert default(served) == "1.1"
    assert [it.version for it in served.torchserve.versions()] == ["1.1"]
    [warning] = [line for line in told if "canary" in line]
    assert warning.startswith("going on without a canary: ")
    assert "canary.json" in warning
    assert served.run_dir.read_state() == {
        "previous": {"version": "1.2", "archive": "car_identifier-1.2.mar"}
    }


@pytest.mark.parametrize("as_json", [False, True])
def test_a_list_is_a_list_whatever_the_canarys_file_says(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, as_json: bool
) -> None:
    served = service(store, [])
    monkeypatch.setattr(model_commands, "TorchServe", lambda *_: served.torchserve)
    (tmp_path / "canary.json").write_text(NO_CANARIES[0])
    arguments = ["--run-dir", str(tmp_path), "list", *["--json"] * as_json]
    done = CliRunner().invoke(model_commands.app, arguments)
    assert done.exit_code == 0
    assert "1.1" in done.stdout
    assert "canary.json" not in done.stdout
    assert "canary.json" in done.stderr
