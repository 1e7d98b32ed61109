"""The web page in a real browser, before the real service."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from axe_playwright_python.sync_playwright import Axe
from browser_fixtures import PHONE, SIZE, Record, answered, choose, said, title
from live_stack import LiveStack
from PIL import Image
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.live

PAGE = Path(__file__).resolve().parent.parent / "gateway" / "page"


@pytest.fixture(scope="module")
def car(cars_data: Path) -> Path:
    return cars_data / "photos" / "00064.jpg"


def api_answer(stack: LiveStack, photo: Path, **options: str) -> dict[str, Any]:
    response = requests.post(
        f"{stack.url}/v1/identify", params=options, data=photo.read_bytes(), timeout=60
    )
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


# --- the answer -------------------------------------------------------------------------------


def test_a_photo_is_shown_with_what_the_api_answers(
    live_stack: LiveStack, page: Page, car: Path
) -> None:
    expected = api_answer(live_stack, car)
    assert expected["verdict"] == "identified"
    choose(page, car)
    expect(title(page)).to_have_text(f"{expected['make']} {expected['model']}")
    answer = page.get_by_role("region", name="Answer")
    expect(answer.get_by_text("Identified", exact=True)).to_be_visible()
    details = f"{expected['body']} · {expected['year']}"
    expect(answer.get_by_text(details, exact=True).first).to_be_visible()
    rows = answer.get_by_role("listitem")
    expect(rows).to_have_count(5)
    for row, prediction in zip(rows.all(), expected["predictions"], strict=True):
        expect(row).to_contain_text(f"{prediction['make']} {prediction['model']}")
        expect(row).to_contain_text(re.compile(r"\d%"))
    expect(answer.get_by_text(f"{expected['make']}, any model")).to_be_visible()
    expect(answer.get_by_text(f"Model {expected['model_version']} ·")).to_be_visible()
    photo = page.get_by_role("img", name=f"Your photo {car.name}")
    assert photo.evaluate("image => image.naturalWidth") == Image.open(car).width
    expect(said(page)).to_contain_text(expected["label"])


def test_bars_are_as_long_as_the_confidence(
    live_stack: LiveStack, page: Page, drawing: Path
) -> None:
    answer = answer_of_a_car(live_stack, drawing) | {"confidence": 0.5, "make_confidence": 0.75}
    answer["predictions"] = [{**answer["predictions"][0], "confidence": 0.5}]
    page.route("**/v1/identify?*", lambda route: route.fulfill(json=answer))
    choose(page, drawing)
    answered(page)
    shares = page.locator(".track").evaluate_all(
        "tracks => tracks.map(t => t.firstChild.offsetWidth / t.offsetWidth)"
    )
    assert shares == pytest.approx([0.75, 0.5], abs=0.01)


def answer_of_a_car(stack: LiveStack, photo: Path) -> dict[str, Any]:
    return api_answer(stack, photo, explain="true") | {"verdict": "identified"}


def test_an_unknown_model_is_called_uncertain(
    live_stack: LiveStack, page: Page, cars_data: Path
) -> None:
    photo, answer = first_with(live_stack, cars_data / "unseen_cars", "uncertain")
    choose(page, photo)
    expect(title(page)).to_have_text(f"Perhaps {answer['make']} {answer['model']}")
    expect(page.get_by_text("probably none of the models known here")).to_be_visible()
    expect(said(page)).to_contain_text("Uncertain, perhaps")


def test_what_is_no_car_gets_no_make(live_stack: LiveStack, page: Page, cars_data: Path) -> None:
    photo, answer = first_with(live_stack, cars_data / "not_cars", "not_a_car")
    choose(page, photo)
    expect(title(page)).to_have_text("No car here")
    expect(page.get_by_text(answer["make"])).to_have_count(0)
    expect(page.get_by_role("button", name="Where it looked")).to_be_hidden()


def first_with(stack: LiveStack, folder: Path, verdict: str) -> tuple[Path, dict[str, Any]]:
    for photo in sorted(folder.rglob("*.jpg")):
        answer = api_answer(stack, photo)
        if answer["verdict"] == verdict:
            return photo, answer
    pytest.fail(f"no photo in {folder} is answered {verdict}")


def test_warnings_of_the_api_are_shown(live_stack: LiveStack, page: Page, tmp_path: Path) -> None:
    Image.new("RGB", (64, 40), "grey").save(tmp_path / "small.png")
    [warning, *_] = api_answer(live_stack, tmp_path / "small.png")["warnings"]
    choose(page, tmp_path / "small.png")
    expect(page.get_by_role("listitem").filter(has_text=warning)).to_be_visible()


def test_several_photos_have_one_answer_each(page: Page, drawing: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no photo")
    Image.new("RGB", SIZE, "white").save(tmp_path / "white.png")
    choose(page, drawing, tmp_path / "notes.txt", tmp_path / "white.png")
    photos = page.get_by_role("list", name="Photos").get_by_role("button")
    expect(photos).to_have_count(3)
    expect(page.get_by_role("button", name=re.compile("no answer yet"))).to_have_count(0)
    broken = page.get_by_role("button", name="Photo 2, notes.txt: Not a photo it can read")
    expect(broken).to_have_attribute("aria-current", "false")
    broken.click()
    expect(broken).to_have_attribute("aria-current", "true")
    expect(title(page)).to_have_text("Not a photo it can read")
    page.get_by_role("button", name=re.compile("Photo 3, white.png")).click()
    answered(page)


def test_start_over_goes_back_to_the_beginning(page: Page, drawing: Path) -> None:
    choose(page, drawing)
    answered(page)
    page.get_by_role("button", name="Start over").click()
    expect(page.get_by_text("Drop a photo here")).to_be_visible()
    expect(page.get_by_role("region", name="Answer")).to_be_hidden()
    expect(page.get_by_role("button", name="Choose photos")).to_be_focused()


# --- other ways in ----------------------------------------------------------------------------


def test_a_photo_can_be_dropped(page: Page, drawing: Path) -> None:
    transfer = page.evaluate_handle(
        """([base64, name]) => {
            const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name, { type: "image/png" }));
            return transfer;
        }""",
        [base64.b64encode(drawing.read_bytes()).decode(), drawing.name],
    )
    page.dispatch_event("main", "dragenter", {"dataTransfer": transfer})
    expect(page.locator("body")).to_have_class("dragging")
    page.dispatch_event("main", "drop", {"dataTransfer": transfer})
    expect(page.locator("body")).not_to_have_class("dragging")
    expect(page.get_by_role("img", name=f"Your photo {drawing.name}")).to_be_visible()
    answered(page)


def test_a_photo_can_be_pasted(page: Page, drawing: Path) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate(
        """async (base64) => {
            const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
            const photo = new Blob([bytes], { type: "image/png" });
            await navigator.clipboard.write([new ClipboardItem({ "image/png": photo })]);
        }""",
        base64.b64encode(drawing.read_bytes()).decode(),
    )
    page.keyboard.press("Control+V")
    answered(page)


def test_a_photo_that_the_browser_cannot_show_is_answered(
    page: Page, drawing: Path, tmp_path: Path
) -> None:
    import pillow_heif

    heic = tmp_path / "phone.heic"
    pillow_heif.from_pillow(Image.open(drawing)).save(heic)
    choose(page, heic)
    answered(page)
    expect(page.get_by_text("Your browser can’t show HEIC photos")).to_be_visible()
    expect(page.get_by_role("button", name="Draw a box")).to_be_hidden()


# --- keyboard, phone, screen reader -----------------------------------------------------------


def tab_to(page: Page, name: str) -> None:
    """Press Tab until what has the focus is called so."""
    for _ in range(30):
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        if focused.count() and name in focused.evaluate(
            "e => e.labels?.[0]?.innerText || e.innerText"
        ):
            outline = focused.evaluate("e => getComputedStyle(e).outlineStyle")
            assert outline == "solid", f"{name} has the focus, and nobody sees it"
            return
    pytest.fail(f"Tab does not get to {name!r}")


def test_all_can_be_done_with_the_keyboard(page: Page, drawing: Path, record: Record) -> None:
    tab_to(page, "Choose photos")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(drawing)
    answered(page)
    tab_to(page, "Draw a box")
    page.keyboard.press("Enter")
    for name, edge in {"Left": 100, "Top": 150, "Right": 540, "Bottom": 360}.items():
        tab_to(page, name)
        page.keyboard.type(str(edge))
    page.keyboard.press("Enter")
    expect(page.get_by_text("It read your box.")).to_be_visible()
    assert "box=100%2C150%2C540%2C360" in record.calls[-1]
    tab_to(page, "Let it look by itself")
    page.keyboard.press("Space")
    expect(page.get_by_text("It read the whole photo.")).to_be_visible()


def test_a_phone_needs_no_sideways_scrolling(
    live_stack: LiveStack, open_page: Callable[..., Page], drawing: Path
) -> None:
    page = open_page(live_stack.url, **PHONE)
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(overflow) == 0
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Take a photo").tap()
    assert chooser.value.element.get_attribute("capture") == "environment"
    chooser.value.set_files(drawing)
    answered(page)
    assert page.evaluate(overflow) == 0
    page.get_by_role("button", name="Draw a box").tap()
    assert page.evaluate(overflow) == 0
    choose(page, drawing, drawing, drawing)
    assert page.evaluate(overflow) == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_fault_is_found_by_axe(
    live_stack: LiveStack, open_page: Callable[..., Page], drawing: Path, scheme: str
) -> None:
    page = open_page(live_stack.url, color_scheme=scheme, reduced_motion="reduce")
    assert faults(page) == ""
    choose(page, drawing)
    answered(page)
    page.get_by_role("button", name="Draw a box").click()
    assert faults(page) == ""
    choose(page, drawing, PAGE / "style.css")
    expect(page.get_by_role("button", name=re.compile("no answer yet"))).to_have_count(0)
    page.get_by_role("button", name=re.compile("style.css")).click()
    assert faults(page) == ""


def faults(page: Page) -> str:
    results = Axe().run(page)
    return str(results.generate_report()) if results.violations_count else ""


def test_nothing_moves_for_who_wants_it_still(
    live_stack: LiveStack, open_page: Callable[..., Page], drawing: Path
) -> None:
    moving = "document.getAnimations().length"
    for motion, expected in (("no-preference", True), ("reduce", False)):
        page = open_page(live_stack.url, reduced_motion=motion)
        page.route("**/v1/identify?*", lambda route: None)  # looks for ever
        choose(page, drawing)
        expect(page.get_by_role("progressbar")).to_be_visible()
        assert bool(page.evaluate(moving)) is expected


# --- on the photo -----------------------------------------------------------------------------


def test_the_heatmap_comes_and_goes_at_a_click(
    live_stack: LiveStack, page: Page, drawing: Path, record: Record
) -> None:
    answer = answer_of_a_car(live_stack, drawing)
    page.route("**/v1/identify?*", lambda route: route.fulfill(json=answer))
    choose(page, drawing)
    toggle = page.get_by_role("button", name="Where it looked")
    heat, photo = page.locator("#heat"), page.locator("#photo")
    expect(toggle).to_have_attribute("aria-pressed", "false")
    expect(heat).to_be_hidden()
    toggle.click()
    expect(toggle).to_have_attribute("aria-pressed", "true")
    assert heat.bounding_box() == photo.bounding_box()
    expected = Image.open(io.BytesIO(base64.b64decode(answer["heatmap"]["png"])))
    heat.evaluate("image => image.decode()")
    assert heat.evaluate("i => [i.naturalWidth, i.naturalHeight]") == list(expected.size)
    expect(page.get_by_text(f"what spoke for {answer['label']}")).to_be_visible()
    toggle.click()
    expect(heat).to_be_hidden()
    assert len(record.calls) == 1, "the photo was sent again"


def test_a_box_can_be_drawn_and_is_what_is_outlined(
    live_stack: LiveStack, open_page: Callable[..., Page], drawing: Path, record: Record
) -> None:
    page = open_page(live_stack.url, reduced_motion="reduce")
    choose(page, drawing)
    page.get_by_role("button", name="Draw a box").click()
    photo = page.locator("#photo").bounding_box()
    assert photo
    left, top = photo["x"] + 0.25 * photo["width"], photo["y"] + 0.5 * photo["height"]
    page.mouse.move(left, top)
    page.mouse.down()
    page.mouse.move(left + 0.5 * photo["width"], top + 0.25 * photo["height"], steps=3)
    page.mouse.up()
    page.get_by_role("button", name="Ask about this box").click()
    expect(page.get_by_text("It read your box.")).to_be_visible()
    [box] = re.findall(r"box=([\dC%]+)", record.calls[-1])
    edges = [int(edge) for edge in box.split("%2C")]
    assert edges == pytest.approx([160, 200, 480, 300], abs=1)
    outline = page.locator("#finder").bounding_box()
    assert outline
    assert outline["x"] == pytest.approx(left, abs=2)
    assert outline["width"] == pytest.approx(photo["width"] / 2, abs=3)
    assert outline["height"] == pytest.approx(photo["height"] / 4, abs=3)
