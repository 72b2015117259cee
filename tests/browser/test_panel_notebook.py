"""Notebook 7: the extension loads there, the panel opens and answers, a kernel's cells go in."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import nbformat
import pytest
from playwright.sync_api import Page, expect

from tests.browser.labs import Lab, running
from tests.browser.panel import Panel
from tests.browser.stories import MODEL, sample
from tests.browser.test_panel_insert import sending
from tests.model_server import playing

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def notebook7(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("notebook7")
    with playing(MODEL, pause=0.004) as url, running(folder, app="notebook", env={"CODEVISION_BASE_URL": url}) as lab:
        sample(lab.root / "parcel.png")
        lab.notebook("seven.ipynb", nbformat.v4.new_code_cell(sending("mine")))
        yield lab


def test_the_panel_in_a_notebook_window(visit: Callable[..., Page], notebook7: Lab) -> None:
    page = visit("seven.ipynb", at=notebook7, app="notebooks")
    page.locator(".jp-Notebook .jp-Cell").first.wait_for()
    panel = Panel(page=page, lab=notebook7)
    page.get_by_role("menuitem", name="View").click()
    page.locator(".lm-Menu-item", has_text="CodeVision").click()
    expect(panel.at("question")).to_be_visible()
    panel.at("upload-input").set_input_files(notebook7.root / "parcel.png")
    panel.ask("Have two looks [two]")
    expect(panel.done()).to_contain_text("two looks")
    panel.at("insert").click()
    expect(panel.at("notice")).to_contain_text("below the active cell")
    assert any("value = 1" in source for source in panel.cells())


def test_a_kernels_cells_go_in(visit: Callable[..., Page], notebook7: Lab) -> None:
    page = visit("seven.ipynb", at=notebook7, app="notebooks")
    page.wait_for_function(
        "() => window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
    )
    page.locator(".jp-Notebook .jp-Cell").first.locator(".cm-content").click()
    page.keyboard.press("Control+Enter")
    expect(page.locator(".jp-Notebook .jp-Cell").nth(2)).to_be_visible()
    assert "value = 41 + 1" in Panel(page=page, lab=notebook7).cells()


def test_the_file_list_of_notebook_offers_images(visit: Callable[..., Page], notebook7: Lab) -> None:
    page = visit(at=notebook7, app="tree")
    page.locator(".jp-DirListing-item", has_text="parcel.png").click(button="right")
    expect(page.locator(".lm-Menu-item", has_text="Ask CodeVision about This Image")).to_be_visible()
