"""`sudo carid keys create` beside a gateway that runs as a user of its own."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

from other_users import GATEWAY, OTHER, as_user, folder, needs_root, owner_and_mode

from gateway.keys import KeyStore

__all__ = ["folder"]

ROOT = Path(__file__).resolve().parent.parent


def carid_keys_create(file: Path, name: str) -> str:
    """The key that the command makes, as root."""
    finished = subprocess.run(
        [sys.executable, "-m", "client", "keys", "create", name, "--file", str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.strip()


@needs_root
class TestRootMakesAKey:
    def test_the_gateways_own_user_reads_it(self, folder: Path) -> None:
        file = folder / "api_keys.json"
        as_user(GATEWAY, lambda: KeyStore(file).create_first("first"))
        key = carid_keys_create(file, "laptop")
        assert as_user(GATEWAY, lambda: KeyStore(file).find(key).name) == "laptop"
        assert owner_and_mode(file) == (GATEWAY, GATEWAY, 0o600)

    def test_also_the_first_one_of_all_in_folders_that_are_not_there_yet(
        self, folder: Path
    ) -> None:
        file = folder / "state" / "run" / "api_keys.json"
        key = carid_keys_create(file, "laptop")
        assert as_user(GATEWAY, lambda: KeyStore(file).find(key).name) == "laptop"

    def test_the_gateways_user_may_still_make_and_revoke_keys(self, folder: Path) -> None:
        file = folder / "run" / "api_keys.json"
        carid_keys_create(file, "laptop")
        made = as_user(GATEWAY, lambda: KeyStore(file).create("batch"))
        assert str(made).startswith("carid_"), made
        assert as_user(GATEWAY, lambda: KeyStore(file).revoke("laptop")) is None

    def test_permissions_that_were_given_to_a_group_stay(self, folder: Path) -> None:
        file = folder / "api_keys.json"
        carid_keys_create(file, "laptop")
        os.chown(file, OTHER, GATEWAY)
        file.chmod(0o640)
        carid_keys_create(file, "batch")
        assert owner_and_mode(file) == (OTHER, GATEWAY, 0o640)


@needs_root
class TestAnotherUserMakesAKey:
    def test_it_is_refused_where_the_gateway_could_not_read_the_file_any_more(
        self, folder: Path
    ) -> None:
        """They may write to the folder, so nothing else would have stopped them."""
        folder.chmod(0o777)
        file = folder / "api_keys.json"
        key = carid_keys_create(file, "laptop")
        file.chmod(0o644)
        file.with_name("api_keys.json.lock").chmod(0o666)
        refusal = as_user(OTHER, lambda: KeyStore(file).create("batch"))
        assert f"belongs to the user number {GATEWAY}" in str(refusal)
        assert "run this as that user, or as root" in str(refusal)
        assert as_user(GATEWAY, lambda: KeyStore(file).find(key).name) == "laptop"
        assert sorted(path.name for path in folder.iterdir()) == [
            "api_keys.json",
            "api_keys.json.lock",
        ]


def test_permissions_stay_as_an_operator_set_them(tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "api_keys.json")
    store.create("laptop")
    store.path.chmod(0o640)
    store.create("batch")
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o640
