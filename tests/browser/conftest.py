"""One JupyterLab and one Chromium for all browser tests; a page of its own for each."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.stories import MODEL, sample
from tests.model_server import playing

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Dialog, Error, Page

    from tests.browser.labs import Lab
    from tests.browser.panel import Panel

# `make test` goes without Playwright: nothing is collected here then, and `pytest -m browser` fails for want of tests
collect_ignore_glob = [] if find_spec("playwright") else ["test_*.py"]


@pytest.fixture(autouse=True)
def jp_asyncio_loop() -> None:
    """In place of pytest-jupyter's, which would close the loop that Playwright runs on."""


@pytest.fixture(autouse=True)
def jp_server_cleanup() -> None:
    """In place of pytest-jupyter's, which has no server to clean up here."""


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    from tests.browser.labs import chromium

    with chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """JupyterLab with the extension; runs ask the scripted model unless their settings say otherwise."""
    from tests.browser.labs import running

    folder = tmp_path_factory.mktemp("lab")
    with playing(MODEL, pause=0.004) as url, running(folder, env={"CODEVISION_BASE_URL": url}) as lab:
        sample(lab.root / "parcel.png")
        yield lab


@pytest.fixture
def visit(browser: Browser, lab: Lab, request: pytest.FixtureRequest) -> Iterator[Callable[..., Page]]:
    """Opens a page of the Lab, in a workspace of its own. At the end no script of a stranger has run, and no error of ours has come up."""
    from tests.browser.labs import SECONDS, ready

    context = browser.new_context(viewport={"width": 1400, "height": 900})
    troubles: list[str] = []
    name = re.sub(r"\W+", "-", request.node.name)

    def asked(dialog: Dialog) -> None:
        if dialog.type == "beforeunload":  # JupyterLab's own question, where something has not been saved
            dialog.accept()
        else:
            troubles.append(f"dialog: {dialog.message}")
            dialog.dismiss()

    def failed(error: Error) -> None:
        # JupyterLab and Notebook have errors of their own (requests that are given up when a kernel or a connection goes)
        if "kernel-agent" in (error.stack or "kernel-agent"):
            troubles.append(str(error))

    def visit(path: str = "", *, at: Lab = lab, app: str = "lab") -> Page:
        page = context.new_page()
        page.set_default_timeout(1000 * SECONDS)
        page.on("dialog", asked)
        page.on("pageerror", failed)
        if app == "lab":
            page.goto(f"{at.url}/lab/workspaces/{name}{f'/tree/{path}' if path else ''}?reset&token={at.token}")
        else:
            page.goto(f"{at.url}/{app}{f'/{path}' if path else ''}?token={at.token}")
        ready(page, app)
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
    from tests.browser.panel import Panel

    return Panel(page=visit(), lab=lab)


@pytest.fixture
def at_server(settings: Callable[..., None], visit: Callable[..., Page], lab: Lab) -> Callable[..., Panel]:
    """JupyterLab whose runs ask the model server at a URL, which a test holds back until it has seen what it wants to see."""
    from tests.browser.panel import Panel

    def open_(url: str, *, at: Lab = lab, **values: Any) -> Panel:
        settings(serverUrl=url, **values)
        return Panel(page=visit(at=at), lab=lab)

    return open_
