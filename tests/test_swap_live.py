"""Versions swapped on the real service, under load, and stopped in the middle."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from live_stack import ROOT, LiveStack, frozen_worker, running_stack, wait_until_ready
from PIL import Image

from benchmarks.service import Service
from benchmarks.serving.photos import write_photos
from benchmarks.soak.clients import Tally
from benchmarks.swap import load, swap_and_roll_back, with_version
from client import Canary, CarIdentifierClient
from client.draining import drain_and_unregister
from client.golden import probe_photo
from client.management import TorchServe
from client.run_dir import RunDir

pytestmark = pytest.mark.live

BUNDLED = Path(os.environ.get("CARID_ARCHIVE", ROOT / "model_store" / "car_identifier.mar"))
OTHER = "99.0"
LOST = 0  # instead of an HTTP status


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveStack]:
    """A service of its own: what is served there changes."""
    store = tmp_path_factory.mktemp("store")
    shutil.copy(BUNDLED, store / "car_identifier.mar")
    options = ("--archive", str(store / "car_identifier.mar"))
    with running_stack(tmp_path_factory.mktemp("swap"), *options) as stack:
        wait_until_ready(stack)
        yield stack


@pytest.fixture
def service(stack: LiveStack) -> Service:
    return Service(stack.url, stack.inference_url, stack.management_url, stack.key_file)


@pytest.fixture
def torchserve(stack: LiveStack) -> TorchServe:
    return TorchServe(stack.management_url, stack.inference_url, stack.key_file)


@pytest.fixture
def home(torchserve: TorchServe, stack: LiveStack) -> Iterator[str]:
    """The first version; whatever the test did, it is the only one again afterwards."""
    first = default_version(torchserve)
    yield first
    for version in torchserve.versions():
        if version.version != first:
            torchserve.unregister(version.version)
    (stack.run_dir / "versions.json").unlink(missing_ok=True)
    (stack.run_dir / "canary.json").unlink(missing_ok=True)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as another version, outside the model store."""
    return with_version(BUNDLED, tmp_path_factory.mktemp("other") / "new.mar", OTHER)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    write_photos(None, folder, ["small"], small=8)
    return folder / "small"


def models(stack: LiveStack, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "client", "models", "--run-dir", stack.run_dir, *arguments]
    return subprocess.run(
        list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=200
    )


def kill_while_draining(stack: LiveStack, *arguments: object) -> None:
    """Start a `models` command, and kill it as soon as it says that a version is draining."""
    command = [sys.executable, "-m", "client", "models", "--run-dir", stack.run_dir, *arguments]
    with subprocess.Popen(
        list(map(str, command)), cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert any("draining" in line for line in process.stdout)
        process.send_signal(signal.SIGKILL)


def spoilt(weights: bytes) -> bytes:
    """Other weights, as many: the self-check has to see it."""
    return weights[::-1]


def renamed(labels: bytes) -> bytes:
    """The same cars in another order: the self-check can't see it."""
    heading, *rows = labels.decode().splitlines()
    numbers = [row.partition(",")[0] for row in rows]
    cars = [row.partition(",")[2] for row in rows]
    moved = [f"{number},{car}" for number, car in zip(numbers, cars[1:] + cars[:1], strict=True)]
    return "\n".join([heading, *moved, ""]).encode()


def default_version(torchserve: TorchServe) -> str:
    [version] = [it.version for it in torchserve.versions() if it.default]
    return version


def answering_version(stack: LiveStack) -> str:
    photo = io.BytesIO()
    Image.new("RGB", (64, 48), "gray").save(photo, "JPEG")
    answer = requests.post(f"{stack.url}/v1/identify", data=photo.getvalue(), timeout=60)
    return str(answer.json()["model_version"])


def served_canary(stack: LiveStack) -> Canary | None:
    with CarIdentifierClient(stack.url) as client:
        return client.models().canary


def registered(torchserve: TorchServe) -> set[str]:
    return {it.version for it in torchserve.versions()}


def test_swaps_and_rollbacks_under_load_lose_nothing(
    service: Service, other: Path, photos: Path, home: str, torchserve: TorchServe
) -> None:
    outcome = swap_and_roll_back(service, photos, other, rounds=2)
    assert not outcome.tally.wrong, outcome.tally.wrong[:5]
    assert outcome.tally.sent > 16 * 4, "the load has to be one"
    assert outcome.versions == [OTHER, home] * 2
    assert registered(torchserve) == {home}


def test_a_broken_archive_is_refused_and_the_old_version_still_serves(
    stack: LiveStack, home: str, torchserve: TorchServe, tmp_path: Path
) -> None:
    broken = with_version(BUNDLED, tmp_path / "broken.mar", "98.0", {"model.bin": spoilt})
    done = models(stack, "swap", broken)
    assert done.returncode == 1
    assert "98.0 can't be registered" in done.stderr
    assert f"{home} still serves" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert registered(torchserve) == {home}
    assert answering_version(stack) == home


def test_golden_photos_show_the_agreement(
    stack: LiveStack, home: str, other: Path, cars_data: Path
) -> None:
    done = models(stack, "swap", other, "--photos", cars_data / "photos", "--min-agreement", 1)
    assert done.returncode == 0, done.stderr
    assert "agrees on" in done.stdout
    assert "(100%)" in done.stdout
    assert models(stack, "rollback").returncode == 0


def test_too_little_agreement_stops_the_swap(
    stack: LiveStack, home: str, torchserve: TorchServe, cars_data: Path, tmp_path: Path
) -> None:
    stranger = with_version(BUNDLED, tmp_path / "stranger.mar", "97.0", {"labels.csv": renamed})
    done = models(stack, "swap", stranger, "--photos", cars_data / "photos")
    assert done.returncode == 1
    assert "--min-agreement" in done.stderr
    assert registered(torchserve) == {home}
    assert answering_version(stack) == home


def test_without_golden_photos_nothing_is_claimed(
    stack: LiveStack, home: str, other: Path, torchserve: TorchServe
) -> None:
    done = models(stack, "swap", other)
    assert done.returncode == 0, done.stderr
    assert "agreement with" in done.stdout
    assert "was not measured" in done.stdout
    assert (answering_version(stack), registered(torchserve)) == (OTHER, {OTHER})
    again = models(stack, "swap", OTHER)
    assert (again.returncode, "default already" in again.stdout) == (0, True)
    assert models(stack, "rollback").returncode == 0
    assert (answering_version(stack), registered(torchserve)) == (home, {home})


@pytest.mark.parametrize(
    "stage", ["registering", "answers a probe", "making", "draining", "draining later"]
)
def test_killed_in_the_middle_and_run_again_ends_well(
    stack: LiveStack, home: str, other: Path, torchserve: TorchServe, stage: str
) -> None:
    command = [sys.executable, "-m", "client", "models", "--run-dir", str(stack.run_dir)]
    with subprocess.Popen(
        [*command, "swap", str(other)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        for line in process.stdout:
            if stage.split()[0] in line and ("probe" not in stage or "probe" in line):
                break
        else:
            pytest.fail(f"the swap never came to {stage}")
        if stage == "draining later":  # between the end of its workers and its own
            wait_for(lambda: not (it := torchserve.version(home)) or it.workers == 0)
        process.send_signal(signal.SIGKILL)
    assert answering_version(stack) in {home, OTHER}, "whatever happens, someone answers"
    done = models(stack, "swap", other)
    assert done.returncode == 0, done.stderr
    assert (answering_version(stack), registered(torchserve)) == (OTHER, {OTHER})
    assert "swapping" not in json.loads((stack.run_dir / "versions.json").read_text())
    assert models(stack, "rollback").returncode == 0
    assert (answering_version(stack), registered(torchserve)) == (home, {home})


def test_a_rollback_that_was_killed_goes_on_to_where_it_went(
    stack: LiveStack, home: str, other: Path, torchserve: TorchServe
) -> None:
    assert models(stack, "swap", other).returncode == 0
    kill_while_draining(stack, "rollback")
    done = models(stack, "rollback")
    assert done.returncode == 0, done.stderr
    assert (answering_version(stack), registered(torchserve)) == (home, {home})


def test_a_version_gets_as_many_workers_as_the_one_before(
    stack: LiveStack, home: str, other: Path, torchserve: TorchServe
) -> None:
    assert models(stack, "scale", 2).returncode == 0
    assert models(stack, "register", other).returncode == 0
    assert models(stack, "swap", OTHER).returncode == 0
    found = torchserve.version(OTHER)
    assert found
    assert found.ready == 2
    assert models(stack, "rollback").returncode == 0
    assert models(stack, "scale", 1).returncode == 0
    assert registered(torchserve) == {home}


@pytest.mark.parametrize("name", ["all", "../car_identifier/1.1", "1.1/set-default"])
def test_what_is_no_version_is_said_to_be_none(stack: LiveStack, home: str, name: str) -> None:
    for command in (["unregister", name], ["scale", "2", "--version", name]):
        done = models(stack, *command)
        assert done.returncode == 1
        assert "is not registered" in done.stderr
    assert answering_version(stack) == home


def test_a_swap_that_was_killed_can_be_rolled_back(
    stack: LiveStack, home: str, other: Path, torchserve: TorchServe
) -> None:
    kill_while_draining(stack, "swap", other)
    done = models(stack, "rollback")
    assert done.returncode == 0, done.stderr
    assert (answering_version(stack), registered(torchserve)) == (home, {home})


def test_removing_a_version_loses_no_request_that_is_under_way(
    service: Service, torchserve: TorchServe, home: str, other: Path, photos: Path, stack: LiveStack
) -> None:
    assert models(stack, "register", other).returncode == 0
    photo = next(photos.glob("*.jpg")).read_bytes()
    statuses: list[int] = []
    key = {"Authorization": service.key("inference")}

    def ask() -> None:
        url = f"{service.predictions}/{OTHER}"
        statuses.append(requests.post(url, data=photo, headers=key, timeout=60).status_code)

    threads = [threading.Thread(target=ask) for _ in range(40)]
    with frozen_worker(stack, OTHER):
        for thread in threads:
            thread.start()
        # All but the batch that the worker has.
        wait_for(lambda: bool((it := torchserve.version(OTHER)) and it.waiting >= 40 - 8))
    version = torchserve.version(OTHER)
    assert version
    drain_and_unregister(torchserve, version)
    assert OTHER not in registered(torchserve)
    for thread in threads:
        thread.join()
    assert statuses == [200] * 40


def test_who_asks_for_a_version_by_number_is_answered_until_it_is_gone(
    home: str, other: Path, photos: Path, stack: LiveStack
) -> None:
    """A caller who names the version does not stop because another one is the default."""
    assert models(stack, "register", other).returncode == 0
    photo = next(photos.glob("*.jpg")).read_bytes()
    stop, statuses = threading.Event(), set()

    def ask() -> None:
        while not stop.is_set():
            try:
                url = f"{stack.url}/v1/identify?version={OTHER}"
                statuses.add(requests.post(url, data=photo, timeout=30).status_code)
            except requests.RequestException:
                statuses.add(LOST)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_for(lambda: 200 in statuses)
    removed = models(stack, "unregister", OTHER)
    stop.set()
    for thread in threads:
        thread.join()
    assert (removed.returncode, statuses) == (0, {200, 404})


def test_a_version_whose_removal_was_killed_can_be_served_again(
    home: str, other: Path, stack: LiveStack
) -> None:
    RunDir(stack.run_dir).write_retiring(OTHER)
    assert models(stack, "register", other).returncode == 0
    with CarIdentifierClient(stack.url) as client:
        assert client.identify(probe_photo(), version=OTHER).model_version == OTHER


def test_a_canary_is_registered_and_its_share_is_written_down(
    stack: LiveStack, home: str, other: Path, torchserve: TorchServe
) -> None:
    done = models(stack, "canary", other, "--share", 0.25)
    assert done.returncode == 0, done.stderr
    assert RunDir(stack.run_dir).read_canary() == (OTHER, 0.25)
    listed = models(stack, "list").stdout
    assert "canary, 25%" in listed
    assert "default" in listed
    wait_for(lambda: served_canary(stack) == Canary(OTHER, 0.25, 0, 0))
    assert models(stack, "unregister", home).returncode == 1
    assert models(stack, "canary", "--off").returncode == 0
    assert RunDir(stack.run_dir).read_canary() is None
    assert models(stack, "unregister", OTHER).returncode == 0
    assert registered(torchserve) == {home}


def test_scale_gives_more_workers_and_takes_them_back(
    stack: LiveStack, home: str, torchserve: TorchServe, service: Service, photos: Path
) -> None:
    assert models(stack, "scale", 2).returncode == 0
    found = torchserve.version(home)
    assert found
    assert (found.workers, found.ready) == (2, 2)
    tally = Tally()
    with load(service, photos, 2, tally):
        pass
    assert models(stack, "scale", 1).returncode == 0
    assert answering_version(stack) == home


def test_another_archive_of_a_served_version_is_not_taken_for_it(
    stack: LiveStack, home: str, tmp_path: Path
) -> None:
    copy = with_version(BUNDLED, tmp_path / "copy.mar", home, {"model.bin": spoilt})
    done = models(stack, "swap", copy)
    assert done.returncode == 1
    assert "new version" in done.stderr


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = threading.Event()
    timer = threading.Timer(seconds, deadline.set)
    timer.start()
    try:
        while not condition():
            assert not deadline.is_set(), "it never happened"
    finally:
        timer.cancel()
