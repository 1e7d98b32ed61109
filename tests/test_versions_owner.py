"""`sudo carid models …` beside a service that runs as a user of its own."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from other_users import GATEWAY, OTHER, as_user, folder, needs_root, owner_and_mode
from serve_fixtures import mar

from client.archives import put_into_store
from client.errors import VersionError
from client.run_dir import RunDir

__all__ = ["folder"]


@pytest.fixture
def strict_umask() -> Iterator[None]:
    """As some administrators have it: new files are for their owner only."""
    before = os.umask(0o077)
    yield
    os.umask(before)


def change(folder: Path) -> None:
    """What every command that changes versions does in the run directory."""
    run_dir = RunDir(folder)
    with run_dir.only_one_at_a_time():
        run_dir.write_state({"previous": {"version": "1.1", "archive": "car_identifier.mar"}})
        run_dir.write_canary("1.2", 0.1)
        run_dir.write_retiring("1.1")
        run_dir.remove_retiring()


@pytest.mark.usefixtures("strict_umask")
def test_everybody_may_read_what_a_command_writes(tmp_path: Path) -> None:
    change(tmp_path)
    archive = mar(tmp_path / "new.mar", "1.2")
    (tmp_path / "store").mkdir()
    copy = tmp_path / "store" / put_into_store(archive, tmp_path / "store")
    for file in (tmp_path / "canary.json", tmp_path / "versions.json", copy):
        assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert copy.read_bytes() == archive.read_bytes()


def test_a_copy_that_fails_leaves_nothing_in_the_store(
    tmp_path: Path, full_disk: Callable[[bool], None]
) -> None:
    archive = mar(tmp_path / "new.mar", "1.2")
    store = tmp_path / "store"
    store.mkdir()
    full_disk(True)
    with pytest.raises(VersionError, match="No space left"):
        put_into_store(archive, store)
    assert not any(store.iterdir())


@needs_root
class TestRootChangesVersions:
    @pytest.mark.usefixtures("strict_umask")
    def test_the_services_own_user_reads_and_changes_them_afterwards(self, folder: Path) -> None:
        change(folder)
        assert as_user(GATEWAY, RunDir(folder).read_canary) == ("1.2", 0.1)
        for name in ("canary.json", "versions.json", "versions.lock"):
            assert owner_and_mode(folder / name) == (GATEWAY, GATEWAY, 0o644)
        assert as_user(GATEWAY, lambda: change(folder)) is None

    @pytest.mark.usefixtures("strict_umask")
    def test_torchserve_reads_the_archive_that_was_copied(self, folder: Path) -> None:
        with_archive = folder / "new"
        with_archive.mkdir()
        name = put_into_store(mar(with_archive / "new.mar", "1.2"), folder)
        assert owner_and_mode(folder / name) == (GATEWAY, GATEWAY, 0o644)

    def test_what_an_earlier_command_left_to_root_is_in_nobodys_way(self, folder: Path) -> None:
        for name in ("canary.json", "versions.json", "versions.lock"):
            (folder / name).write_text("{}")
            (folder / name).chmod(0o644)
        assert as_user(GATEWAY, lambda: change(folder)) is None
        assert owner_and_mode(folder / "canary.json")[0] == GATEWAY

    def test_a_lock_that_was_roots_alone_is_given_away_by_roots_next_command(
        self, folder: Path
    ) -> None:
        (folder / "versions.lock").touch(0o600)
        refusal = as_user(GATEWAY, lambda: change(folder))
        assert "run this as the service's own user, or as root" in str(refusal)
        change(folder)
        assert as_user(GATEWAY, lambda: change(folder)) is None

    def test_who_may_not_write_there_is_told_who_may(self, folder: Path) -> None:
        change(folder)
        refusal = as_user(OTHER, lambda: change(folder))
        assert f"can't write to the run directory {folder}" in str(refusal)
        assert "run this as the service's own user, or as root" in str(refusal)

    def test_no_link_leads_root_out_of_the_directory(self, folder: Path, tmp_path: Path) -> None:
        precious = tmp_path / "precious"
        precious.touch(0o600)
        (folder / "versions.lock").symlink_to(precious)
        with pytest.raises(VersionError):
            change(folder)
        (folder / "versions.lock").unlink()
        (folder / "canary.json").symlink_to(precious)
        change(folder)
        assert owner_and_mode(precious) == (0, 0, 0o600)
        assert precious.read_bytes() == b""
