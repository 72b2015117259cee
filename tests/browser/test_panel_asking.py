"""Choosing images, asking, watching, stopping, asking on."""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from playwright.sync_api import Page, expect

from tests.browser.labs import Lab
from tests.browser.panel import Panel
from tests.browser.stories import MODEL
from tests.model_server import PIECE, answer, playing

pytestmark = pytest.mark.browser


def test_a_question_is_answered_step_by_step(panel: Panel) -> None:
    run = panel.run("What is on the label? [label]")
    expect(panel.at("step-0")).to_contain_text("I cut it out first")
    expect(panel.done()).to_contain_text("K7P2")
    assert [panel.at(f"step-{k}").get_attribute("data-status") for k in range(3)] == ["ok"] * 3
    expect(panel.at("step-1").get_by_test_id("codevision-code")).to_contain_text("upright = image_1.rotate(180)")
    expect(panel.at("step-1").get_by_test_id("codevision-outputs")).to_contain_text("turned (240, 100)")
    panel.at("step-1").get_by_test_id("codevision-code").scroll_into_view_if_needed()
    expect(panel.at("step-1").locator("code span").first).to_be_visible()  # it is highlighted, once it has been in view
    picture = panel.at("step-1").locator("img")
    picture.scroll_into_view_if_needed()
    expect(picture).to_have_js_property("naturalWidth", 480)
    expect(picture).to_have_js_property("naturalHeight", 200)
    assert panel.newest()["id"] == run
    assert panel.newest()["answer"] == "K7P2"


def test_what_the_model_writes_is_seen_while_it_writes(at_server: Callable[..., Panel]) -> None:
    pieces = threading.Semaphore(0)
    reply = answer("The label is small. I look along its edge and think of what I see.", "a long story")
    with playing(lambda messages: reply, pause=pieces.acquire) as url:
        panel = at_server(url)
        panel.choose().ask("Tell me of the label")
        for written in (1, 3, 4):  # what is released stands still until it has been seen
            expect(panel.at("writing")).to_have_text(reply[: written * PIECE])
            pieces.release({1: 2, 3: 1, 4: len(reply)}[written])
        expect(panel.done()).to_contain_text("a long story")


def test_images_by_the_servers_file_dialog(panel: Panel) -> None:
    panel.open()
    panel.at("choose-files").click()
    dialog = panel.page.locator(".jp-Dialog")
    dialog.locator(".jp-DirListing-item", has_text="parcel.png").click()
    dialog.locator("button.jp-mod-accept").click()
    expect(panel.at("chosen")).to_contain_text("parcel.png")
    thumbnail = panel.at("chosen").locator("img")
    expect(thumbnail).to_be_visible()
    assert thumbnail.evaluate("image => image.decode().then(() => image.naturalWidth)") == 640
    panel.at("remove-image-0").click()
    expect(panel.at("drop")).to_be_visible()


def test_images_by_upload_and_by_a_drop_from_the_desktop(panel: Panel) -> None:
    panel.open()
    panel.at("upload-input").set_input_files(panel.lab.root / "parcel.png")
    expect(panel.at("chosen").locator("li")).to_have_count(1)
    data = base64.b64encode((panel.lab.root / "parcel.png").read_bytes()).decode()
    panel.page.evaluate(
        "data => { const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0)); const transfer = new DataTransfer();"
        " transfer.items.add(new File([bytes], 'dropped.png', {type: 'image/png'}));"
        " const panel = document.querySelector('[data-testid=codevision-panel]');"
        " for (const type of ['dragenter', 'dragover', 'drop'])"
        " panel.dispatchEvent(new DragEvent(type, {dataTransfer: transfer, bubbles: true, cancelable: true})) }",
        data,
    )
    expect(panel.at("chosen").locator("li")).to_have_count(2)
    expect(panel.at("chosen")).to_contain_text("dropped.png")
    panel.ask("What colour? [colour]")
    expect(panel.done()).to_contain_text("white")
    run = panel.newest()["id"]
    assert len(panel.lab.events(run)[0]["images"]) == 2


def test_images_by_a_drag_from_the_file_browser(panel: Panel) -> None:
    panel.open()
    expect(panel.file("parcel.png")).to_be_visible()
    start, end = panel.file("parcel.png").bounding_box(), panel.at("drop").bounding_box()
    assert start is not None
    assert end is not None
    mouse = panel.page.mouse
    mouse.move(start["x"] + 40, start["y"] + 8)
    mouse.down()
    mouse.move(start["x"] + 80, start["y"] + 30, steps=4)
    mouse.move(end["x"] + 60, end["y"] + 30, steps=8)
    mouse.up()
    expect(panel.at("chosen")).to_contain_text("parcel.png")


def test_a_picture_of_a_notebook_by_right_click(visit: Callable[..., Page], lab: Lab) -> None:
    data = base64.b64encode((lab.root / "parcel.png").read_bytes()).decode()
    output = nbformat.v4.new_output("display_data", {"image/png": data})
    lab.notebook("picture.ipynb", nbformat.v4.new_code_cell("show()", outputs=[output]))
    panel = Panel(page=visit("picture.ipynb"), lab=lab)
    panel.menu(panel.page.locator(".jp-OutputArea-output img"), "Ask CodeVision about This Picture")
    expect(panel.at("chosen")).to_contain_text("output-1.png")
    panel.ask("What colour? [colour]")
    expect(panel.done()).to_contain_text("white")
    assert panel.lab.events(panel.newest()["id"])[0]["images"][0]["size"] == [640, 400]


def test_stop_ends_a_cell_that_runs_long(panel: Panel) -> None:
    panel.run("Wait for me [slow]")
    expect(panel.at("step-0")).to_have_attribute("data-phase", "running")
    panel.at("stop").click()
    expect(panel.done()).to_contain_text("Stopped.")
    expect(panel.at("stop")).to_be_hidden()
    # where the stop came before the code's first line, it has printed nothing
    assert panel.at("step-0").locator("pre.cv-Text").all_text_contents() in (["begun\n"], [])


def test_pause_holds_the_run_and_resume_goes_on(at_server: Callable[..., Panel]) -> None:
    paused = threading.Event()

    def choose(messages: list[Any]) -> str | int | None:
        assert paused.wait(120)
        return MODEL(messages)

    with playing(choose) as url:
        panel = at_server(url)
        panel.choose().ask("Have two looks [two]")
        with panel.page.expect_response(re.compile("/commands")):
            panel.at("pause").click()
        paused.set()  # the model's first reply comes when the run has been told to pause
        expect(panel.at("state")).to_have_text("paused")
        panel.at("resume").click()
        expect(panel.done()).to_contain_text("two looks")


def test_a_follow_up_goes_on_in_the_same_run(panel: Panel) -> None:
    run = panel.run("Have two looks [two]")
    panel.done()
    panel.at("question").fill("And what colour is it? [colour]")
    panel.at("question").press("Enter")
    expect(panel.done(1)).to_contain_text("white, as far as I can see")
    assert panel.newest()["id"] == run
    assert len([event for event in panel.lab.events(run, until="answer") if event["type"] == "turn"]) == 1
    expect(panel.at("turn-0")).to_contain_text("Have two looks")


def test_the_budget_that_is_left_is_shown(panel: Panel) -> None:
    panel.run("Have two looks [two]")
    panel.done()
    steps = panel.at("budget-steps")
    limit, left = (int(steps.get_attribute(f"aria-value{name}") or "") for name in ("max", "now"))
    assert limit - left == 3
    for name in ("tokens", "seconds"):
        assert re.fullmatch(
            r"[\d.k]+( min| s)? of [\d.k]+( min| s)?", panel.at(f"budget-{name}").get_attribute("aria-valuetext") or ""
        )


def test_an_exception_is_shown_whole(panel: Panel) -> None:
    panel.run("Fail for me [error]")
    panel.done()
    traceback = panel.at("step-0").get_by_test_id("codevision-traceback")
    expect(traceback).to_contain_text("ValueError")
    expect(traceback).to_contain_text("look('everything')")
    assert "\x1b" not in (traceback.text_content() or "")
    expect(panel.at("step-0")).to_have_attribute("data-status", "error")


def test_what_the_server_refuses_is_told(panel: Panel) -> None:
    (Path(panel.lab.root) / "no.png").write_bytes(b"this is no picture")
    panel.page.locator(
        'button[title^="Refresh"], .jp-FileBrowser-toolbar [data-command="filebrowser:refresh"]'
    ).first.click()
    panel.choose("no.png").ask("What? [colour]")
    expect(panel.at("error")).to_contain_text("image")
    expect(panel.at("chosen")).to_contain_text("no.png")  # nothing that was chosen or written is lost
    expect(panel.at("question")).to_have_value("What? [colour]")
