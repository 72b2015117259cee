"""What a model, its code, a notebook or a file's name brings is shown as text, and nothing of it runs (the page's title would tell)."""

from __future__ import annotations

from collections.abc import Callable

import nbformat
import pytest
from playwright.sync_api import Page, expect

from tests.browser.labs import Lab
from tests.browser.panel import Panel
from tests.browser.stories import HOSTILE, sample

pytestmark = pytest.mark.browser

NAME = "<img src=x onerror=document.title='owned'>.png"


def test_hostile_words_everywhere_are_inert(visit: Callable[..., Page], lab: Lab) -> None:
    sample(lab.root / NAME)
    panel = Panel(page=visit(), lab=lab)
    panel.choose(NAME).ask(f"What? {HOSTILE} [hostile]")
    panel.done()
    step = panel.at("step-0")
    expect(step.locator(".cv-Thought")).to_contain_text(HOSTILE)
    expect(step.locator("pre.cv-Text").first).to_contain_text(HOSTILE)
    expect(step.get_by_test_id("codevision-traceback")).to_contain_text(f"ValueError: {HOSTILE}")
    expect(panel.at("turn-0").locator("h3")).to_contain_text(HOSTILE)
    expect(panel.at("answer-0")).to_contain_text(f"answer {HOSTILE}")
    side = panel.at("panel")
    assert side.locator("script, iframe, object, embed, b").count() == 0
    assert side.locator('img[src="x"]').count() == 0
    panel.at("history").click()
    expect(panel.at("runs")).to_contain_text(HOSTILE)
    assert side.locator('script, b, img[src="x"]').count() == 0
    panel.at(f"run-{panel.newest()['id']}").click()
    panel.at("image-0").click()
    panel.page.keyboard.press("Escape")
    panel.page.wait_for_timeout(500)  # time for an image that fails to load to have called its handler
    assert "owned" not in panel.page.title()


def test_the_notebook_of_a_hostile_run_is_inert_in_jupyterlab(panel: Panel) -> None:
    panel.run(f"What? {HOSTILE} [hostile]")
    panel.done()
    panel.at("open-notebook").click()
    expect(panel.page.locator(".jp-Notebook .jp-OutputArea-output").first).to_be_visible()
    panel.page.wait_for_timeout(500)
    assert "owned" not in panel.page.title()


def test_pictures_are_never_served_as_pages(panel: Panel) -> None:
    run = panel.run("What is on the label? [label]")
    panel.done()
    with panel.lab.client() as client:
        picture = client.get(f"/codevision/api/runs/{run}/images/1?kind=data")
    assert picture.headers["content-type"] == "image/png"
    assert picture.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in picture.headers["content-security-policy"]


def test_a_notebook_that_claims_to_be_a_run_is_refused_in_words(visit: Callable[..., Page], lab: Lab) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")])
    notebook.metadata["codevision"] = {"schema": 1, "run": HOSTILE, "turns": HOSTILE, "header": None}
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, lab.root / "claim.ipynb")
    panel = Panel(page=visit("claim.ipynb"), lab=lab)
    panel.at("open-trajectory").locator("jp-button, button").first.click()
    expect(panel.at("error")).to_be_visible()
    expect(panel.at("error")).not_to_be_empty()
