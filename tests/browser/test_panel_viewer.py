"""The image viewer: zoom, lineage, keys."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.labs import Lab
from tests.browser.panel import Panel

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def labelled() -> dict[str, str]:
    """The run that all tests here look at, made by the first."""
    return {}


@pytest.fixture
def viewed(visit: Callable[..., Page], lab: Lab, labelled: dict[str, str]) -> Panel:
    """A run with a crop and a crop of a crop, in view."""
    panel = Panel(page=visit(), lab=lab)
    if labelled:
        panel.open()
        panel.at("history").click()
        panel.at(f"run-{labelled['id']}").click()
    else:
        labelled["id"] = panel.run("What is on the label? [label]")
    panel.done()
    return panel


def zoomed(panel: Panel, index: int) -> int:
    return int((panel.at(f"stage-{index}-zoom").text_content() or "0").split()[0])


def corners(panel: Panel, index: int) -> list[list[float]]:
    points = panel.at(f"outline-{index}").get_attribute("points") or ""
    return [[float(value) for value in point.split(",")] for point in points.split()]


def test_a_crop_shows_its_box_on_the_original(viewed: Panel) -> None:
    viewed.at("image-2").click()
    expect(viewed.at("viewer")).to_be_visible()
    assert sorted(corners(viewed, 2)) == [[180, 120], [180, 220], [420, 120], [420, 220]]
    assert viewed.at("outline-2").get_attribute("data-chosen") == "true"
    expect(viewed.at("lineage")).to_have_text(re.compile(r"image_0.*image_1.*image_2"))
    viewed.page.keyboard.press("Escape")
    viewed.at("image-3").click()
    assert sorted(corners(viewed, 3)) == [[255, 140], [255, 200], [345, 140], [345, 200]]
    viewed.at("viewer-where").click()
    expect(viewed.at("stage-0")).to_be_hidden()
    viewed.at("lineage-0").click()
    expect(viewed.at("stage-0")).to_be_visible()
    viewed.at("outline-3").click()  # a box of the original leads to its crop
    expect(viewed.at("stage-3")).to_be_visible()
    viewed.at("viewer-close").click()
    expect(viewed.at("viewer")).to_be_hidden()


def test_zoom_by_buttons_keys_and_wheel(viewed: Panel) -> None:
    viewed.at("image-1").click()
    fitted = zoomed(viewed, 1)
    viewed.at("stage-1-in").click()
    assert zoomed(viewed, 1) > fitted
    viewed.at("stage-1-fit").click()
    viewed.at("stage-1").focus()
    viewed.page.keyboard.press("-")
    assert zoomed(viewed, 1) < fitted
    viewed.page.keyboard.press("0")
    assert zoomed(viewed, 1) == fitted
    box = viewed.at("stage-1").bounding_box()
    assert box is not None
    viewed.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    viewed.page.mouse.wheel(0, -300)
    expect(viewed.at("stage-1-zoom")).not_to_have_text(f"{fitted} %")
    assert zoomed(viewed, 1) > fitted
    sheet = viewed.at("stage-1").locator(".cv-Stage-sheet")
    before = sheet.get_attribute("style")
    viewed.page.mouse.down()
    viewed.page.mouse.move(box["x"] + 30, box["y"] + 30, steps=3)
    viewed.page.mouse.up()
    expect(sheet).not_to_have_attribute("style", before or "")


def test_the_viewer_by_keyboard_alone(viewed: Panel) -> None:
    viewed.at("image-1").focus()
    viewed.page.keyboard.press("Enter")
    expect(viewed.at("viewer")).to_be_focused()
    viewed.page.keyboard.press("ArrowRight")
    expect(viewed.at("stage-2")).to_be_visible()
    viewed.page.keyboard.press("ArrowLeft")
    expect(viewed.at("stage-2")).to_be_hidden()
    for _ in range(30):  # Tab goes round inside
        viewed.page.keyboard.press("Tab")
        focused = viewed.page.evaluate(
            "() => { const node = document.activeElement; return [!!node.closest('.cv-Viewer'), node.outerHTML.slice(0, 200)] }"
        )
        assert focused[0], focused[1]
    viewed.page.keyboard.press("Escape")
    expect(viewed.at("viewer")).to_be_hidden()
    expect(viewed.at("image-1")).to_be_focused()
