"""The web page where a key is needed, and how its files are served."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from axe_playwright_python.sync_playwright import Axe
from browser_fixtures import Record
from gateway_fixtures import Gateway, serving
from live_stack import LiveStack
from PIL import Image
from playwright.sync_api import Page, expect

from gateway.app import create_app
from gateway.keys import KeyStore
from gateway.settings import Settings

PAGE = Path(__file__).resolve().parent.parent / "gateway" / "page"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.new("RGB", (320, 200), "lightblue").save(path)
    return path


@pytest.fixture
def keys(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path / "api_keys.json")


@pytest.fixture
def locked(live_stack: LiveStack, tmp_path: Path, keys: KeyStore) -> Iterator[str]:
    """The address of a gateway that asks everyone for a key, before the real TorchServe."""
    settings = Settings(
        access="key",
        api_keys_file=tmp_path / "api_keys.json",
        inference_url=live_stack.inference_url,
        management_url=live_stack.management_url,
        key_file=live_stack.key_file,
    )
    with serving(create_app(settings)) as url:
        yield url


@pytest.mark.live
def test_a_key_is_asked_for_and_kept_for_the_tab(
    locked: str, keys: KeyStore, open_page: Callable[..., Page], photo: Path, record: Record
) -> None:
    secret = keys.create("page")
    page = open_page(locked)
    page.set_input_files("#files", photo)
    dialog = page.get_by_role("dialog", name="This server asks for an API key")
    expect(dialog).to_be_visible()
    assert Axe().run(page).violations_count == 0
    expect(dialog.get_by_label("API key")).to_be_focused()
    page.keyboard.type("carid_wrong")
    page.keyboard.press("Enter")
    expect(dialog).to_contain_text("not known here")
    page.keyboard.type(secret)
    page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    expect(page.get_by_text(re.compile(r"^Model \d"))).to_be_visible()
    assert len(record.calls) == 3
    page.reload()
    expect(page.get_by_text("An API key is in use for this tab.")).to_be_visible()
    page.set_input_files("#files", photo)
    expect(page.get_by_text(re.compile(r"^Model \d"))).to_be_visible()
    assert page.evaluate("Object.keys(localStorage).length + document.cookie.length") == 0
    assert secret not in "".join(record.calls)
    page.get_by_role("button", name="Forget it").click()
    assert page.evaluate("sessionStorage.length") == 0


@pytest.mark.live
def test_without_a_key_all_photos_say_so_after_one_cancel(
    locked: str, open_page: Callable[..., Page], photo: Path
) -> None:
    page = open_page(locked)
    page.set_input_files("#files", [photo] * 5)
    page.get_by_role("button", name="Cancel").click()
    needs = page.get_by_role("button", name=re.compile("An API key is needed"))
    expect(needs).to_have_count(5)
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.get_by_role("button", name="Enter a key").click()
    expect(page.get_by_role("dialog")).to_be_visible()


@pytest.mark.parametrize("path", ["/", "/assets/app.js", "/assets/style.css", "/assets/icon.svg"])
def test_browsers_ask_whether_a_file_has_changed(gateway: Gateway, path: str) -> None:
    response = requests.get(gateway.url + path, timeout=30)
    assert response.status_code == 200
    assert response.headers["Cache-Control"] == "no-cache"
    again = {"If-None-Match": response.headers["ETag"]}
    assert requests.get(gateway.url + path, headers=again, timeout=30).status_code == 304
    assert requests.head(gateway.url + path, timeout=30).status_code == 200


def test_what_is_no_file_of_the_page_is_not_found(gateway: Gateway) -> None:
    for path in ("/assets/nothing.js", "/assets/..%2fpage.py", "/assets/"):
        response = requests.get(gateway.url + path, timeout=30)
        assert response.status_code == 404
        assert response.json()["error"]["code"] == "not_found"


@pytest.mark.parametrize("file", sorted(PAGE.iterdir()), ids=lambda file: file.name)
def test_addresses_are_relative_so_that_a_proxys_prefix_works(file: Path) -> None:
    text = file.read_text().replace("http://www.w3.org/2000/svg", "")
    assert not re.findall(r"""(?:href|src|action)="/|url\(|https?://|["'`]/\w""", text)
