"""The panel in a page, as a person uses it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, expect

from tests.browser.labs import SECONDS, Lab


@dataclass(frozen=True, kw_only=True)
class Panel:
    """The panel in a page, as a person uses it."""

    page: Page
    lab: Lab

    def at(self, name: str) -> Locator:
        """A part of the side panel, or of the page."""
        return self.page.get_by_test_id(f"codevision-{name}").first

    def open(self) -> Panel:
        """Bring the panel to the front by its tab."""
        self.page.locator('li[data-id="codevision-panel"]').click()
        expect(self.at("question")).to_be_visible()
        return self

    def file(self, name: str) -> Locator:
        """A file in the file browser."""
        return self.page.locator(".jp-DirListing-item").filter(has=self.page.get_by_text(name, exact=True))

    def menu(self, target: Locator, item: str) -> None:
        """Choose from the context menu of something."""
        target.click(button="right")
        self.page.locator(".lm-Menu-item", has_text=item).click()

    def choose(self, name: str = "parcel.png") -> Panel:
        """Choose an image by the file browser's context menu, which opens the panel."""
        self.menu(self.file(name), "Ask CodeVision about This Image")
        expect(self.at("chosen")).to_contain_text(name)
        return self

    def ask(self, question: str) -> None:
        """Ask with the button."""
        self.at("question").fill(question)
        self.at("ask").click()

    def run(self, question: str, name: str = "parcel.png") -> str:
        """Choose an image and ask about it; the run's id, once it is in view."""
        self.choose(name).ask(question)
        expect(self.at("turn-0")).to_contain_text(question.replace("\n", " "))
        return self.newest()["id"]

    def done(self, turn: int = 0) -> Locator:
        """Wait for a turn's end; its answer."""
        expect(self.at(f"answer-{turn}")).to_be_visible(timeout=180_000)
        expect(self.at("state")).to_have_text("ready")
        return self.at(f"answer-{turn}")

    def newest(self) -> Any:
        """The line of the newest run."""
        return self.lab.api("runs")["runs"][0]

    def cells(self) -> list[str]:
        """The sources of the cells of the notebook in view, from the page's model."""
        return list(
            self.page.evaluate(
                "() => { const shell = window.jupyterapp.shell; const notebook = shell.currentWidget.content;"
                " return Array.from(notebook.model.sharedModel.cells, cell => cell.getSource()) }"
            )
        )

    def undo(self) -> None:
        """Undo, in command mode, what was done to the cells of the notebook in view."""
        self.page.keyboard.press("Escape")
        expect(self.page.locator(".jp-Notebook.jp-mod-commandMode:focus-within")).to_be_visible()
        self.page.keyboard.press("z")


def save(page: Page, path: Path) -> None:
    """Save as a person does, again where a change came meanwhile, and wait until the file has been written."""
    before, end = path.stat().st_mtime_ns, time.monotonic() + SECONDS
    saved = "() => !window.jupyterapp.shell.currentWidget.context.model.dirty"
    while True:
        page.keyboard.press("Control+s")
        for _ in range(50):
            if path.stat().st_mtime_ns != before and page.evaluate(saved):
                return
            page.wait_for_timeout(100)
        assert time.monotonic() < end, "JupyterLab did not write the file"
