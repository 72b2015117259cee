"""The panel among JupyterLab's other parts: settings, history, notebooks, reloads, lost connections."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Response, expect

from tests.browser.cable import cable
from tests.browser.labs import SECONDS, Lab, ready
from tests.browser.panel import Panel
from tests.browser.stories import MODEL
from tests.model_server import playing

pytestmark = pytest.mark.browser


def test_settings_have_a_form_and_are_taken_by_the_next_run(panel: Panel, settings: Callable[..., None]) -> None:
    panel.open()
    panel.at("settings").click()
    form = panel.page.locator(".jp-SettingsPanel")
    expect(form).to_contain_text("Base URL of an OpenAI-compatible server")
    for label in ("Model", "Model server", "Protocol", "Isolation", "Steps", "Seconds", "Tokens", "Approve each step"):
        expect(form.get_by_text(label, exact=True).first).to_be_visible()
    steps = form.locator('input[id$="_steps"]')
    told: list[str] = []

    def read_back(response: Response) -> bool:
        """JupyterLab takes a setting when it has saved it and read it back."""
        if "/api/settings/" in response.url and "kernel-agent" in response.url:
            told.append(response.request.method)
        return told[-2:] == ["PUT", "GET"]

    with panel.page.expect_response(read_back):
        steps.fill("2")
    panel.run("Have two looks [two]")
    expect(panel.done()).to_contain_text("The budget of steps is spent.")
    assert panel.at("budget-steps").get_attribute("aria-valuemax") == "2"


def test_the_embedded_model_by_a_setting(
    settings: Callable[..., None], visit: Callable[..., Page], lab: Lab, label: str
) -> None:
    settings(model="embedded")
    panel = Panel(page=visit(), lab=lab)
    panel.choose(label).ask("What is written on the label?")
    expect(panel.done().locator(".cv-Answer-text")).to_have_text(re.compile(r"^[A-Z0-9]+$"))


@pytest.fixture
def label(lab: Lab, request: pytest.FixtureRequest) -> str:
    """The sample image of the repository, in the server's folder."""
    picture = Path(request.config.rootpath) / "notebooks" / "label.png"
    (lab.root / "label.png").write_bytes(picture.read_bytes())
    return "label.png"


def test_history_lists_searches_and_opens(panel: Panel) -> None:
    first = panel.run("Have two looks, for the history [two]")
    panel.done()
    panel.at("new").click()
    second = panel.run("And the colour of this parcel [colour]")
    panel.done()
    panel.at("history").click()
    runs = panel.at("runs")
    expect(runs.get_by_test_id(f"codevision-run-{first}")).to_contain_text("two looks")
    panel.at("search").fill("COLOUR OF THIS")
    expect(runs.locator("li")).to_have_count(1)
    expect(panel.at(f"run-{second}")).to_be_visible()
    panel.at("search").fill("for the history")
    expect(panel.at(f"run-{first}")).to_be_visible()
    panel.at("search").fill("nothing of the kind")
    expect(panel.page.get_by_text("No run matches.")).to_be_visible()
    panel.at("search").fill("")
    panel.at(f"run-{first}").click()
    expect(panel.at("turn-0")).to_contain_text("for the history")
    expect(panel.at("step-1")).to_contain_text("second look 1")


def test_a_closed_run_comes_back_from_its_notebook_and_can_be_asked_on(panel: Panel) -> None:
    run = panel.run("Have two looks and be closed [two]")
    panel.done()
    panel.at("close").click()
    expect(panel.at("state")).to_have_text("closed")
    panel.at("history").click()
    panel.at(f"run-{run}").click()
    expect(panel.at("state")).to_have_text("ready")
    expect(panel.at("step-1")).to_contain_text("second look 1")
    panel.ask("And the colour? [colour]")
    expect(panel.done(1)).to_contain_text("white")


def test_open_as_notebook_and_the_way_back(panel: Panel) -> None:
    panel.run("What is on the label? [label]")
    panel.done()
    with panel.page.expect_response(re.compile("/runs/[0-9a-f]+/path")):
        panel.at("open-notebook").click()
    panel.at("new").click()
    expect(panel.at("drop")).to_be_visible()
    notice = panel.page.locator(".Toastify__toast", has_text="This notebook is a CodeVision run.")
    notice.get_by_role("button", name="Open in the panel").click()  # at once: it goes away after some seconds
    expect(panel.at("turn-0")).to_contain_text("[label]")
    tab = panel.page.locator("#jp-main-dock-panel .lm-TabBar-tab", has_text="codevision-")
    expect(tab).to_be_visible()
    expect(panel.page.locator(".jp-Notebook .jp-OutputArea-output img").first).to_be_visible()
    panel.at("new").click()
    panel.at("open-trajectory").locator("jp-button, button").first.click()  # in the notebook's toolbar
    expect(panel.at("turn-0")).to_contain_text("[label]")


def test_a_notebook_that_is_no_run_is_not_offered(visit: Callable[..., Page], lab: Lab) -> None:
    page = visit(lab.notebook("plain.ipynb"))
    expect(page.locator(".jp-NotebookPanel-toolbar")).to_be_visible()
    expect(page.locator(".jp-Notebook")).to_be_visible()
    expect(page.get_by_test_id("codevision-open-trajectory")).to_have_count(0)


def test_a_trajectory_is_opened_from_the_file_browser(panel: Panel) -> None:
    panel.run("Have two looks [two]")
    panel.done()
    name = panel.newest()["path"].split("/")[-1]
    panel.at("new").click()
    panel.file("codevision-runs").dblclick()
    panel.menu(panel.file(name), "Open as CodeVision Run")
    expect(panel.at("turn-0")).to_contain_text("Have two looks")


def test_insert_into_the_open_notebook(visit: Callable[..., Page], lab: Lab) -> None:
    panel = Panel(page=visit(lab.notebook("insert.ipynb")), lab=lab)
    expect(panel.page.locator(".jp-Notebook")).to_be_visible()
    panel.open()
    panel.run("Have two looks [two]")
    panel.done()
    panel.at("insert").click()
    expect(panel.at("notice")).to_contain_text("below the active cell")
    sources = panel.cells()
    assert any("value = 1" in source for source in sources)
    assert any("Have two looks" in source for source in sources)
    panel.page.locator(".jp-Notebook .jp-Cell").first.click()
    panel.undo()
    panel.page.wait_for_function(
        "count => window.jupyterapp.shell.currentWidget.content.model.cells.length < count", arg=len(sources)
    )
    assert not any("value = 1" in source for source in panel.cells())


def test_insert_without_a_notebook_says_what_to_do(panel: Panel) -> None:
    panel.run("Have two looks [two]")
    panel.done()
    panel.at("insert").click()
    expect(panel.at("error")).to_contain_text("No notebook is open")


def test_audit_gives_a_verdict_for_each_cell(panel: Panel) -> None:
    panel.run("Have two looks [two]")
    panel.done()
    panel.at("run-audit").click()
    expect(panel.at("audit-verdict")).to_have_text("holds", timeout=180_000)
    expect(panel.at("audit-cell-1")).to_contain_text("identical")
    expect(panel.at("audit")).to_contain_text("Not signed")
    panel.at("audit-close").click()
    expect(panel.at("audit")).to_be_hidden()


class Tiles:
    """A model server that asks for tile after tile, as many as it is allowed to: the run goes on until it is stopped."""

    def __init__(self) -> None:
        self._steps = threading.Semaphore(0)

    def allow(self, steps: int) -> None:
        """So many steps more."""
        self._steps.release(steps)

    def choose(self, messages: list[Any]) -> str | int | None:
        self._steps.acquire()
        return MODEL(messages)


def remembered(panel: Panel, run: str) -> None:
    """Wait until JupyterLab has saved that this run is in view, in the open panel: it does so a while after it was so."""
    workspace = panel.page.url.split("/workspaces/")[1].split("?")[0].split("/")[0]
    end = time.monotonic() + SECONDS
    with panel.lab.client() as client:
        while True:
            data = client.get(f"/lab/api/workspaces/{workspace}").json().get("data", {})
            right = data.get("layout-restorer:data", {}).get("right", {})
            if data.get("codevision:run", {}).get("id") == run and right.get("current") == "codevision-panel":
                return
            assert time.monotonic() < end, data
            time.sleep(0.1)


def stopped_whole(panel: Panel, run: str) -> None:
    """Stop the run; every step that the server knows is on the page, once and in its place."""
    panel.at("stop").click()
    panel.done()
    steps = [event["step"] for event in panel.lab.events(run) if event["type"] == "step"]
    expect(panel.page.locator('.cv-Step[data-phase="done"]')).to_have_count(len(steps))
    assert steps == list(range(len(steps)))
    for step in steps:
        expect(panel.at(f"step-{step}").locator("pre.cv-Text")).to_contain_text(f"tile {step} at")


def test_a_reload_ends_no_run_and_loses_no_step(at_server: Callable[..., Panel]) -> None:
    tiles = Tiles()
    with playing(tiles.choose) as url:
        panel = at_server(url, steps=250)
        tiles.allow(5)
        run = panel.run("All the tiles [long]")
        expect(panel.at("step-4")).to_have_attribute("data-status", "ok")
        remembered(panel, run)
        panel.page.evaluate("url => { location.href = url }", panel.page.url.split("?")[0])
        tiles.allow(5)  # while the page is away
        expect(panel.at("turn-0")).to_contain_text("All the tiles [long]")
        expect(panel.at("step-9")).to_have_attribute("data-status", "ok")
        stopped_whole(panel, run)


def test_a_lost_connection_is_told_and_taken_up_again(at_server: Callable[..., Panel], lab: Lab) -> None:
    tiles = Tiles()
    with playing(tiles.choose) as url, cable(int(lab.url.rsplit(":", 1)[1])) as wire:
        panel = at_server(url, at=replace(lab, url=f"http://127.0.0.1:{wire.port}"), steps=250)
        # JupyterLab asks its server now and then whether all is well, and says in a dialog where it is not
        dialog = panel.page.locator(".jp-Dialog")
        panel.page.add_locator_handler(dialog, lambda: dialog.get_by_role("button").last.click())
        tiles.allow(2)
        run = panel.run("All the tiles [long]")
        expect(panel.at("step-1")).to_have_attribute("data-status", "ok")
        wire.cut()
        expect(panel.at("reconnecting")).to_be_visible()
        tiles.allow(4)  # while the page hears nothing
        wire.mend()
        expect(panel.at("reconnecting")).to_be_hidden()
        expect(panel.at("step-5")).to_have_attribute("data-status", "ok")
        tiles.allow(4)
        expect(panel.at("step-9")).to_have_attribute("data-status", "ok")
        stopped_whole(panel, run)


def test_more_room_in_the_main_area(panel: Panel) -> None:
    panel.run("Have two looks [two]")
    panel.done()
    panel.at("widen").click()
    wide = panel.page.get_by_test_id("codevision-panel-wide")
    expect(wide).to_contain_text("Have two looks")
    expect(wide.get_by_test_id("codevision-answer-0")).to_contain_text("two looks")
    wide.get_by_test_id("codevision-question").fill("And the colour? [colour]")
    wide.get_by_test_id("codevision-ask").click()
    expect(wide.get_by_test_id("codevision-answer-1")).to_contain_text("white")
    expect(panel.at("answer-1")).to_contain_text("white")  # both are views of one run


def test_without_its_server_extension_the_panel_says_what_to_do(panel: Panel) -> None:
    panel.page.route("**/codevision/api/status*", lambda route: route.fulfill(status=404, body="no such page"))
    panel.page.reload()
    ready(panel.page)
    panel.open()
    expect(panel.at("unreachable")).to_contain_text("jupyter server extension list")
    panel.page.unroute("**/codevision/api/status*")
    panel.at("unreachable").get_by_role("button", name="Try again").click()
    expect(panel.at("unreachable")).to_be_hidden()
