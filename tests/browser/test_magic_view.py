"""%codevision in JupyterLab and Notebook: the live view works while the cell runs, on ipykernel 7 and on 6."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.labs import Lab, running
from tests.browser.panel import save
from tests.browser.stories import MODEL, sample
from tests.model_server import playing

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]
Open = Callable[..., Page]


@pytest.fixture
def opened(visit: Open, lab: Lab, request: pytest.FixtureRequest) -> Callable[..., Page]:
    """A notebook with these cells; the first one has been run by hand, as the others will be."""

    def open_(*sources: str, at: Lab = lab, app: str = "lab", kernel: str = "python3") -> Page:
        cells = [nbformat.v4.new_code_cell(source) for source in ("%load_ext kernel_agent", *sources)]
        name = at.notebook(f"{request.node.name}.ipynb", *cells)
        notebook = json.loads((at.root / name).read_text())
        notebook["metadata"]["kernelspec"]["name"] = kernel
        (at.root / name).write_text(json.dumps(notebook))
        page = visit(name, at=at) if app == "lab" else visit(name, at=at, app="notebooks")
        page.wait_for_function(
            "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'",
            timeout=120_000,
        )
        page.locator(".jp-Notebook .jp-CodeCell").first.click()
        return page

    return open_


def run(page: Page) -> None:
    """Run the selected cell and select the next."""
    page.keyboard.press("Shift+Enter")


def view(page: Page) -> Locator:
    """The live view in the page."""
    return page.locator(".codevision-view")


def step(page: Page, number: int) -> Locator:
    """A step in it."""
    return view(page).get_by_label(f"Step {number}", exact=True)


def button(page: Locator | Page, name: str) -> Locator:
    """A button by its name."""
    return page.get_by_role("button", name=name, exact=True)


def test_the_view_shows_all_and_the_saved_notebook_keeps_a_static_rendering(opened: Open, lab: Lab) -> None:
    page = opened('%codevision "What is written? [label]" parcel.png')
    run(page)
    run(page)
    expect(view(page).locator(".cv-answer")).to_contain_text("K7P2", timeout=120_000)
    expect(step(page, 1).locator(".cv-code .cv-mi").first).to_have_text("180")
    expect(view(page).locator("polygon")).to_have_count(3)
    expect(view(page).locator(".cv-frame svg text").first).to_have_text("image_1")
    expect(step(page, 2).locator(".cv-text")).to_have_text("turned (240, 100)\n")
    for picture in view(page).locator("img").all():
        picture.scroll_into_view_if_needed()
        page.wait_for_function("img => img.naturalWidth > 0", arg=picture.element_handle())
    expect(page.locator(".codevision-static")).to_be_hidden()
    expect(page.locator(".jp-CodeCell").nth(1).locator(".jp-InputPrompt")).to_have_text("[2]:")  # the cell has ended
    saved = lab.root / "test_the_view_shows_all_and_the_saved_notebook_keeps_a_static_rendering.ipynb"
    save(page, saved)
    assert "codevision-static" in saved.read_text()
    page.reload()
    expect(view(page).locator(".cv-answer")).to_contain_text("K7P2", timeout=120_000)
    page.evaluate("() => window.jupyterapp.serviceManager.sessions.shutdownAll()")
    page.reload()
    expect(page.locator(".codevision-static")).to_be_visible(timeout=120_000)
    expect(page.locator(".codevision-static")).to_contain_text("K7P2")
    error = page.get_by_text("Error displaying widget: model not found")
    expect(error).to_have_count(1)
    expect(error).to_be_hidden()


def test_approve_edit_and_refuse_while_the_cell_runs(opened: Open) -> None:
    page = opened(
        '%codevision "Look. [two]" parcel.png --approve-each --to t', "print(t.steps[0].cell.outputs[0].text)"
    )
    run(page)
    run(page)
    expect(view(page).get_by_role("status")).to_have_text("Waits for your approval", timeout=120_000)
    button(step(page, 1), "Edit…").click()
    code = view(page).get_by_label("Code of step 1", exact=True)
    expect(code).to_be_focused()
    code.fill("print('mine')\nvalue = 5")
    button(step(page, 1).locator(".cv-editor"), "Run").click()
    expect(step(page, 1)).to_contain_text("edited by you")
    button(step(page, 2), "Refuse").click()
    expect(view(page).locator(".cv-answer")).to_contain_text("two looks")
    expect(step(page, 2).locator(".cv-step-status")).to_have_text("refused")
    page.locator(".jp-CodeCell .jp-InputArea-editor").nth(2).click()
    run(page)
    expect(page.locator(".jp-CodeCell").nth(2).locator(".jp-OutputArea-output")).to_have_text("mine\n")


def test_edit_and_rewind_make_branches(opened: Open) -> None:
    page = opened('%codevision "Look. [two]" parcel.png')
    run(page)
    run(page)
    expect(view(page).locator(".cv-answer")).to_contain_text("two looks", timeout=120_000)
    button(step(page, 1), "Edit and go on…").click()
    view(page).get_by_label("Code of step 1", exact=True).fill("print('other')\nvalue = 7")
    button(view(page), "Go on").click()
    expect(button(view(page), "Branch 1 (from step 1)")).to_have_attribute("aria-current", "true")
    expect(step(page, 2).locator(".cv-text")).to_have_text("second look 7\n")
    expect(view(page).locator(".cv-answer")).to_contain_text("two looks")
    button(view(page), "First run").click()
    expect(step(page, 2).locator(".cv-text")).to_have_text("second look 1\n")
    button(step(page, 1), "Rewind to here").click()
    expect(button(view(page), "Branch 2 (from step 2)")).to_have_attribute("aria-current", "true")
    expect(view(page).locator(".cv-step")).to_have_count(1)


def test_hostile_text_is_inert(opened: Open) -> None:
    page = opened('%codevision "Look. [hostile] <img src=x onerror=alert(1)>" parcel.png')
    run(page)
    run(page)
    expect(view(page).locator(".cv-answer")).to_contain_text("<script>", timeout=120_000)
    assert view(page).locator("script, b, img:not([data-image])").count() == 0
    assert page.locator(".codevision-static").locator("script, b").count() == 0


def test_the_steps_are_inserted_under_the_cell(opened: Open) -> None:
    page = opened('%codevision "Look. [two]" parcel.png --to t --quiet', "t.insert_cells()", "last = 1")
    for _ in range(3):
        run(page)
    cells = page.locator(".jp-Notebook .jp-Cell")
    expect(cells.filter(has_text="second look")).not_to_have_count(0, timeout=120_000)
    sources = page.evaluate(
        "() => Array.from(window.jupyterapp.shell.currentWidget.content.model.sharedModel.cells, cell => cell.getSource())"
    )
    at = sources.index("t.insert_cells()")
    assert sources[-1] == "last = 1" or sources[-2] == "last = 1"
    assert [source for source in sources[at:] if "print('first look')" in source]


def stops(page: Page) -> float:
    """Press Stop while the model's cell sleeps for a minute; the seconds until the view said that the turn was over."""
    run(page)
    run(page)
    expect(step(page, 1).locator(".cv-step-status")).to_have_text("running", timeout=120_000)
    began = page.evaluate("() => performance.now()")
    button(view(page), "Stop").click()
    expect(view(page).locator(".cv-answer")).to_contain_text("interrupted")
    seconds: float = (page.evaluate("() => performance.now()") - began) / 1000
    return seconds


def test_stop_works_while_the_cell_runs(opened: Open) -> None:
    seconds = stops(opened('%codevision "Wait. [slow]" parcel.png'))
    print(f"stopped {seconds:.2f} s after the click, JupyterLab, ipykernel 7")


@pytest.mark.parametrize("kernel", ["python3", "ipykernel6"])
def test_stop_works_in_notebook_7(opened: Open, kernel: str, tmp_path: Path) -> None:
    old = ROOT / ".venv-ipykernel6/bin/python"
    assert old.exists(), "there is no .venv-ipykernel6: make test-browser makes it"
    spec = tmp_path / "kernels/ipykernel6"
    spec.mkdir(parents=True)
    argv = [str(old), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "old", "language": "python"}))
    with playing(MODEL, pause=0.004) as url:
        env: dict[str, Any] = {"CODEVISION_BASE_URL": url, "JUPYTER_PATH": str(tmp_path)}
        with running(tmp_path / "notebook", app="notebook", env=env) as lab:
            sample(lab.root / "parcel.png")
            page = opened('%codevision "Wait. [slow]" parcel.png', at=lab, app="notebook", kernel=kernel)
            print(f"stopped {stops(page):.2f} s after the click, Notebook 7, {kernel}")
            page.close()
