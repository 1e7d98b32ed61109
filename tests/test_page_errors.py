"""What the web page says when there is no answer, and what can be taken away when there is one."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from browser_fixtures import Record, answered, choose, said, title
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.live


# --- to take away -----------------------------------------------------------------------------


def test_answer_and_command_can_be_copied(page: Page, drawing: Path) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    choose(page, drawing)
    answered(page)
    page.get_by_role("button", name="Copy JSON").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    copied = json.loads(page.evaluate("navigator.clipboard.readText()"))
    assert "heatmap" not in copied
    assert len(copied["predictions"]) == 5
    page.get_by_role("button", name="Copy curl").click()
    expect(said(page)).to_have_text("Copied")
    command = page.evaluate("navigator.clipboard.readText()")
    assert command.startswith("curl 'http://127.0.0.1:")
    assert "--data-binary @'drawing.png'" in command


# --- when it does not work --------------------------------------------------------------------


def test_a_refusal_is_told_in_the_apis_words(page: Page, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 and nothing more")
    choose(page, tmp_path / "broken.jpg")
    expect(title(page)).to_have_text("This photo is damaged")
    expect(page.get_by_role("region", name="Answer")).to_contain_text("Send")
    expect(page.get_by_text(re.compile(r"Request \w+"))).to_be_visible()
    with page.expect_file_chooser():
        page.get_by_role("button", name="Choose another photo").click()


def test_a_photo_over_the_limit_is_refused_in_words(page: Page, tmp_path: Path) -> None:
    (tmp_path / "big.jpg").write_bytes(b"\xff\xd8\xff" + bytes(30 * 2**20))
    choose(page, tmp_path / "big.jpg")
    expect(title(page)).to_have_text("This photo is too large")


def test_a_busy_server_is_asked_again_when_it_says(page: Page, drawing: Path) -> None:
    """Served from here: the real service can't be made busy at will."""
    busy = {"error": {"code": "server_busy", "message": "Too much to do."}, "request_id": "r"}

    page.route(
        "**/v1/identify?*",
        lambda route: route.fulfill(status=503, headers={"Retry-After": "2"}, json=busy),
        times=1,
    )
    choose(page, drawing)
    expect(title(page)).to_have_text("Busy right now")
    expect(page.get_by_text("Too much to do.")).to_be_visible()
    panel = page.get_by_role("region", name="Answer")
    expect(panel.get_by_text(re.compile("^Trying again in [12] second"))).to_be_visible()
    answered(page)


def test_an_unreachable_server_can_be_tried_again(
    page: Page, drawing: Path, record: Record
) -> None:
    page.route("**/v1/identify?*", lambda route: route.abort())
    choose(page, drawing)
    expect(title(page)).to_have_text("No connection")
    page.unroute("**/v1/identify?*")
    page.get_by_role("button", name="Try again").click()
    answered(page)
    assert all("ERR_FAILED" in complaint for complaint in record.complaints)
    record.complaints.clear()
