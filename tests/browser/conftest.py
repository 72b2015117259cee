"""One JupyterLab and one Chromium for all browser tests; a page of its own for each."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect
from tests.browser.labs import Lab, chromium, running
from tests.browser.scripts import playing
from tests.browser.stories import SCRIPTS, sample

expect.set_options(timeout=20_000)


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
        expect(self.at(f"answer-{turn}")).to_be_visible(timeout=60_000)
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


@pytest.fixture(autouse=True)
def jp_asyncio_loop() -> None:
    """In place of pytest-jupyter's, which would close the loop that Playwright runs on."""


@pytest.fixture(autouse=True)
def jp_server_cleanup() -> None:
    """In place of pytest-jupyter's, which has no server to clean up here."""


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """JupyterLab with the extension; runs ask the scripted model unless their settings say otherwise."""
    folder = tmp_path_factory.mktemp("lab")
    with playing(SCRIPTS) as url, running(folder, env={"CODEVISION_BASE_URL": url}) as lab:
        sample(lab.root / "parcel.png")
        yield lab


@pytest.fixture
def visit(browser: Browser, lab: Lab, request: pytest.FixtureRequest) -> Iterator[Callable[..., Page]]:
    """Opens a page of the Lab, in a workspace of its own. At the end no script of a stranger has run, and no error of ours has come up."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    troubles: list[str] = []
    name = re.sub(r"\W+", "-", request.node.name)

    def visit(path: str = "", *, at: Lab = lab, app: str = "lab") -> Page:
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("dialog", lambda dialog: (troubles.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        # Notebook 7.6 has an error of its own at start, with and without the panel: there only ours count
        page.on("pageerror", lambda e: troubles.append(str(e)) if app == "lab" or "kernel-agent" in (e.stack or "") else None)
        if app == "lab":
            page.goto(f"{at.url}/lab/workspaces/{name}{f'/tree/{path}' if path else ''}?reset&token={at.token}")
            page.wait_for_function("window.jupyterapp", timeout=60_000)
            page.evaluate("() => window.jupyterapp.restored.then(() => null)")
            expect(page.locator('li[data-id="codevision-panel"]')).to_be_visible(timeout=60_000)
        else:
            page.goto(f"{at.url}/{app}{f'/{path}' if path else ''}?token={at.token}")
        return page

    yield visit
    titles = [page.title() for page in context.pages]
    if getattr(request.node, "failed", False):
        for number, page in enumerate(context.pages):
            page.screenshot(path=str(Path(request.config.rootpath) / f"screenshots/{name}-{number}.png"))
    context.close()
    assert troubles == []
    assert not any("owned" in title for title in titles)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    report = yield
    if report.when == "call":
        item.failed = report.failed  # type: ignore[attr-defined]
    return report


@pytest.fixture
def settings(lab: Lab) -> Iterator[Callable[..., None]]:
    """Sets a user's settings of the panel, for pages that are opened afterwards."""
    name = "@kernel-agent/jupyterlab:panel"
    yield lambda **values: lab.set(name, **values)
    lab.set(name)


@pytest.fixture
def panel(visit: Callable[..., Page], lab: Lab) -> Panel:
    """JupyterLab as it comes up, the panel still closed."""
    return Panel(page=visit(), lab=lab)
