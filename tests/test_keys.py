"""API keys in their file, and the `carid keys` that makes and takes them back."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.keys import KeyStore, KeyStoreError

ROOT = Path(__file__).resolve().parent.parent
NAMES = st.sampled_from(["laptop", "batch", "phone"])


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path / "run" / "api_keys.json")


class TestStore:
    def test_a_key_is_found_by_its_secret(self, store: KeyStore) -> None:
        secret = store.create("laptop", per_minute=50)
        found = store.find(secret)
        assert found
        assert (found.name, found.per_minute) == ("laptop", 50)

    def test_the_secret_is_nowhere_in_the_file(self, store: KeyStore) -> None:
        secret = store.create("laptop")
        assert secret.startswith("carid_")
        assert secret.removeprefix("carid_") not in store.path.read_text()

    def test_only_its_owner_may_read_the_file(self, store: KeyStore) -> None:
        old_mask = os.umask(0)
        try:
            store.create("laptop")
            store.create("batch")
        finally:
            os.umask(old_mask)
        assert stat.S_IMODE(store.path.stat().st_mode) == 0o600

    def test_secrets_differ_and_cannot_be_guessed(self, store: KeyStore) -> None:
        secrets = {store.create(f"key{index}") for index in range(20)}
        assert len(secrets) == 20
        assert all(len(secret.removeprefix("carid_")) == 43 for secret in secrets), "256 bits"

    @given(given=st.text())
    @settings(max_examples=50)
    def test_nothing_else_opens(self, given: str) -> None:
        with TemporaryDirectory() as folder:
            store = KeyStore(Path(folder) / "keys.json")
            secret = store.create("laptop")
            [key] = store.list()
            assert store.find(given) is None
            assert store.find(secret + given) is None or not given
            assert store.find(key.sha256) is None

    @given(steps=st.lists(st.tuples(st.sampled_from(["create", "revoke"]), NAMES), max_size=12))
    @settings(max_examples=25, deadline=None)
    def test_what_was_made_and_not_revoked_opens(self, steps: list[tuple[str, str]]) -> None:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "keys.json"
            gateway, command = KeyStore(path), KeyStore(path)  # as in two processes
            valid: dict[str, str] = {}
            revoked: list[str] = []
            for step, name in steps:
                if step == "create" and name not in valid:
                    valid[name] = command.create(name)
                elif step == "revoke" and name in valid:
                    command.revoke(name)
                    revoked.append(valid.pop(name))
                else:
                    with pytest.raises(KeyStoreError, match=repr(name)):
                        command.create(name) if step == "create" else command.revoke(name)
                assert [key.name for key in gateway.list()] == list(valid)
                for name_, secret in valid.items():
                    found = gateway.find(secret)
                    assert found
                    assert found.name == name_
                assert not any(gateway.find(secret) for secret in revoked)

    def test_no_key_is_lost_when_many_are_made_at_once(self, store: KeyStore) -> None:
        names = [f"key{index}" for index in range(30)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda name: KeyStore(store.path).create(name), names))
        assert sorted(key.name for key in store.list()) == sorted(names)

    def test_the_first_key_is_made_once_even_if_it_was_revoked(self, store: KeyStore) -> None:
        with ThreadPoolExecutor(8) as pool:
            made = list(pool.map(lambda _: store.create_first("first"), range(8)))
        assert len([secret for secret in made if secret]) == 1
        store.revoke("first")
        assert store.create_first("first") is None
        assert store.list() == ()

    def test_without_a_file_there_are_no_keys(self, store: KeyStore) -> None:
        assert store.list() == ()
        assert store.find("carid_x") is None

    def test_a_file_that_vanishes_takes_its_keys_along(self, store: KeyStore) -> None:
        secret = store.create("laptop")
        assert store.find(secret)
        store.path.unlink()
        assert store.find(secret) is None

    @pytest.mark.parametrize(
        "content",
        [b"", b"{", b"[]", b"{}", b'{"keys": [1]}', b'{"keys": [{"name": "x"}]}', b"\xff",
         b'{"keys": [{"name": 1, "sha256": "", "created": ""}]}',
         b'{"keys": [{"name": "x", "sha256": "", "created": "", "per_minute": true}]}'],
    )  # fmt: skip
    def test_a_file_that_is_none_opens_nothing_and_is_not_overwritten(
        self, store: KeyStore, content: bytes
    ) -> None:
        secret = store.create("laptop")
        store.path.write_bytes(content)
        with pytest.raises(KeyStoreError, match="no key file"):
            store.find(secret)
        with pytest.raises(KeyStoreError, match="no key file"):
            store.create("batch")
        assert store.path.read_bytes() == content

    @pytest.mark.parametrize("name", ["", " ", "-x", "a b", "x" * 65, "naïve", "a/b", "x\n"])
    def test_names_are_short_and_plain(self, store: KeyStore, name: str) -> None:
        with pytest.raises(KeyStoreError, match="can't be a key's name"):
            store.create(name)
        assert not store.path.exists()


Carid = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def carid(store: KeyStore) -> Carid:
    """Runs `carid keys` on the store's file."""

    def run(*arguments: str, file: Path = store.path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", "from client.cli import app; app()", "keys", *arguments],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, "CARID_API_KEYS_FILE": str(file)},
            timeout=60,
        )

    return run


class TestCommand:
    def test_create_prints_the_key_alone_where_a_program_reads(
        self, carid: Carid, store: KeyStore
    ) -> None:
        done = carid("create", "laptop", "--per-minute", "50")
        assert done.returncode == 0, done.stderr
        found = store.find(done.stdout.strip())
        assert found
        assert (found.name, found.per_minute) == ("laptop", 50)
        assert f"'laptop' of {store.path}, shown this once" in done.stderr

    def test_json(self, carid: Carid, store: KeyStore) -> None:
        made = json.loads(carid("create", "laptop", "--json").stdout)
        assert store.find(made["key"])
        [line] = carid("list", "--json").stdout.splitlines()
        listed = json.loads(line)
        assert (listed["name"], listed["per_minute"]) == ("laptop", None)
        assert set(listed) == {"name", "created", "per_minute"}, "no hash: it is nobody's business"

    def test_list_is_a_table(self, carid: Carid, store: KeyStore) -> None:
        secret = store.create("laptop")
        store.create("batch", per_minute=6000)
        output = carid("list").stdout
        assert "laptop" in output
        assert "default" in output
        assert "6000" in output
        assert secret not in output

    def test_no_keys_is_no_failure(self, carid: Carid) -> None:
        done = carid("list")
        assert done.returncode == 0
        assert "carid keys create" in done.stderr
        assert carid("list", "--json").stdout == ""

    def test_revoke(self, carid: Carid, store: KeyStore) -> None:
        secret = store.create("laptop")
        assert carid("revoke", "laptop").returncode == 0
        assert store.find(secret) is None

    @pytest.mark.parametrize(
        ("arguments", "hint"),
        [
            (["revoke", "phone"], "only laptop"),
            (["create", "laptop"], "already"),
            (["create", "a b"], "can't be a key's name"),
        ],
        ids=["unknown", "duplicate", "bad name"],
    )
    def test_a_mistake_is_one_line(
        self, carid: Carid, store: KeyStore, arguments: list[str], hint: str
    ) -> None:
        store.create("laptop")
        done = carid(*arguments)
        assert done.returncode == 1
        assert hint in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert done.stdout == ""

    @pytest.mark.parametrize("arguments", [["list"], ["create", "x"], ["revoke", "x"]], ids=str)
    def test_an_unreadable_file_is_named(
        self, carid: Carid, tmp_path: Path, arguments: list[str]
    ) -> None:
        (tmp_path / "keys.json").mkdir()  # what even root can't read as a file
        done = carid(*arguments, file=tmp_path / "keys.json")
        assert done.returncode == 1
        assert str(tmp_path / "keys.json") in done.stderr
        assert "Is a directory" in done.stderr

    def test_a_place_that_cannot_be_written_is_named(self, carid: Carid, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        done = carid("create", "x", file=tmp_path / "file" / "keys.json")
        assert done.returncode == 1
        assert "can't be written" in done.stderr

    def test_the_option_goes_before_the_environment(
        self, carid: Carid, store: KeyStore, tmp_path: Path
    ) -> None:
        other = tmp_path / "other.json"
        assert carid("create", "laptop", "--file", str(other)).returncode == 0
        assert other.exists()
        assert not store.path.exists()


@pytest.fixture
def carid_in(tmp_path: Path) -> Carid:
    """Runs `carid keys` in a folder of its own, where no variable names a key file."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CARID_")}
        return subprocess.run(
            [sys.executable, "-m", "client", "keys", *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**kept, "PYTHONPATH": str(ROOT), **environment},
            timeout=60,
        )

    return run


class TestWhichFile:
    @pytest.mark.parametrize("arguments", [["create", "x"], ["list"], ["revoke", "x"]], ids=str)
    @pytest.mark.parametrize("environment", [{}, {"CARID_RUN_DIR": ""}], ids=["unset", "empty"])
    def test_where_no_service_runs_there_are_no_keys(
        self, carid_in: Carid, tmp_path: Path, arguments: list[str], environment: dict[str, str]
    ) -> None:
        done = carid_in(*arguments, **environment)
        assert done.returncode == 1
        assert done.stdout == "", "a key that opens nothing"
        assert f"no run directory {tmp_path / '.run'}" in done.stderr
        assert "--file" in done.stderr
        assert "CARID_RUN_DIR" in done.stderr
        assert not any(tmp_path.iterdir())

    @pytest.mark.parametrize("environment", [{}, {"CARID_RUN_DIR": ""}], ids=["unset", "empty"])
    def test_beside_the_run_directory_it_is_the_one_in_there(
        self, carid_in: Carid, tmp_path: Path, environment: dict[str, str]
    ) -> None:
        (tmp_path / ".run").mkdir()
        made = carid_in("create", "laptop", **environment)
        assert KeyStore(tmp_path / ".run" / "api_keys.json").find(made.stdout.strip())

    @pytest.mark.parametrize("named", ["option", "file variable", "run directory's variable"])
    def test_what_is_named_need_not_be_there_yet(
        self, carid_in: Carid, tmp_path: Path, named: str
    ) -> None:
        """As before the first start of a container, or for another machine's secrets."""
        file = tmp_path / "state" / "api_keys.json"
        made = {
            "option": lambda: carid_in("create", "x", "--file", str(file)),
            "file variable": lambda: carid_in("create", "x", CARID_API_KEYS_FILE=str(file)),
            "run directory's variable": lambda: carid_in(
                "create", "x", CARID_RUN_DIR=str(file.parent)
            ),
        }[named]()
        assert KeyStore(file).find(made.stdout.strip())
