"""A real Chromium that opens the web page and keeps a record of what it complains about."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from live_stack import LiveStack
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

BROWSERS = ("chromium", "google-chrome")
# Photos are answered in well under a second; a busy machine may take its time.
PATIENCE_MS = 30_000
DESKTOP = {"width": 1280, "height": 800}
# Of the drawing, in pixels.
SIZE = (640, 400)
PHONE = {
    "viewport": {"width": 360, "height": 740},
    "is_mobile": True,
    "has_touch": True,
    "device_scale_factor": 2,
}

expect.set_options(timeout=PATIENCE_MS)


@dataclass
class Record:
    """What a page did that a user would not see.

    Attributes:
        complaints: of the console: errors, warnings and what the security policy stopped.
        origins: where its requests went.
        calls: the addresses it asked about photos.
    """

    complaints: list[str] = field(default_factory=list)
    origins: set[str] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self._on_request(request.url))

    def _on_console(self, message: Any) -> None:
        # Chromium says so itself for every answer that is an error, however well it was handled.
        told_anyway = message.text.startswith("Failed to load resource: the server responded")
        if message.type in ("error", "warning") and not told_anyway:
            self.complaints.append(message.text)

    def _on_request(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("blob", "data"):
            self.origins.add(f"{parts.scheme}://{parts.netloc}")
        if parts.path.endswith("/v1/identify"):
            self.calls.append(url)


@pytest.fixture(scope="module")  # Playwright's event loop is in the way of other modules' own
def browser() -> Iterator[Browser]:
    """Debian's Chromium or Google's Chrome, without a window."""
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        told = f"needs a browser: none of {', '.join(BROWSERS)} is on the PATH"
        if os.environ.get("CARID_REQUIRE_BROWSER") == "1":
            pytest.fail(told)
        pytest.skip(told)
    with sync_playwright() as playwright:
        # In containers, tests run as root, for whom Chromium has no sandbox.
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def record() -> Record:
    return Record()


@pytest.fixture
def open_page(browser: Browser, record: Record) -> Iterator[Callable[..., Page]]:
    """Opens the page at an address; whatever a test did, nothing may have complained or leaked."""
    contexts, own = [], set()

    def open_it(url: str, **options: Any) -> Page:
        context = browser.new_context(**{"viewport": DESKTOP, **options})
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        own.add(url)
        page = context.new_page()
        record.watch(page)
        # From now on, and not from a test's first wait for one, which a quick key could precede.
        page.on("filechooser", lambda _: None)
        page.goto(f"{url}/")
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert not record.complaints
    assert record.origins <= own, "the page talked to somebody else"


@pytest.fixture
def page(live_stack: LiveStack, open_page: Callable[..., Page]) -> Page:
    """The page of the real service, on a desktop."""
    return open_page(live_stack.url)


@pytest.fixture(scope="module")
def drawing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photo for where there are no real ones: what is answered does not matter."""
    image = Image.new("RGB", SIZE, "lightblue")
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((120, 180, 520, 300), 40, fill="darkred")
    for x in (200, 440):
        draw.ellipse((x - 40, 260, x + 40, 340), fill="black")
    path = tmp_path_factory.mktemp("photos") / "drawing.png"
    image.save(path)
    return path


def choose(page: Page, *photos: Path) -> None:
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose photos").click()
    chooser.value.set_files(photos)


def answered(page: Page) -> None:
    """Wait until the selected photo's answer is there."""
    expect(page.get_by_text(re.compile(r"^Model \d"))).to_be_visible()


def title(page: Page) -> Locator:
    return page.get_by_role("heading", level=2)


def said(page: Page) -> Locator:
    """What a screen reader is told."""
    return page.get_by_role("status")
