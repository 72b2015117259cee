"""Pictures of the panel in use, light and dark: `python -m tests.browser.screenshots FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import Page, expect

from tests.browser.labs import Lab, chromium, ready, running
from tests.browser.panel import Panel
from tests.browser.stories import SCRIPTS, sample
from tests.model_server import by_question, playing

SHOWN = {
    "What is written on the label?": SCRIPTS["[label]"],
    "And what colour is it?": SCRIPTS["[colour]"],
    "Show me an exception": SCRIPTS["[error]"],
}
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}


def opened(page: Page, lab: Lab, theme: str, width: int = 470) -> Panel:
    """JupyterLab in a theme, with the panel `width` pixels wide."""
    page.goto(f"{lab.url}/lab?reset&token={lab.token}")
    ready(page)
    page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", THEMES[theme])
    page.wait_for_timeout(1500)
    panel = Panel(page=page, lab=lab).open()
    edge = panel.at("panel").bounding_box()
    assert edge is not None
    page.mouse.move(edge["x"] - 3, 500)
    page.mouse.down()
    page.mouse.move(edge["x"] - 3 - (width - edge["width"]), 500, steps=5)
    page.mouse.up()
    return panel


def take(folder: Path, theme: str, page: Page, lab: Lab) -> None:
    """All pictures of one theme."""

    def shot(name: str) -> None:
        page.mouse.move(5, 400)
        page.wait_for_timeout(400)
        page.evaluate(
            "() => document.querySelectorAll('.Toastify__toast').forEach(toast => { toast.style.display = 'none' })"
        )
        page.screenshot(path=str(folder / f"{name}-{theme}.png"))

    panel = opened(page, lab, theme)
    shot("empty")
    panel.file("parcel.png").dblclick()
    panel.choose()
    shot("chosen")
    panel.at("question").fill("What is written on the label?")
    panel.at("ask").click()
    expect(panel.at("step-0")).to_be_visible()
    panel.at("approve-each").click()
    expect(panel.at("approval")).to_be_visible()
    shot("approve")
    panel.at("approve-edit").click()
    shot("approve-edit")
    panel.at("approve-each").click()
    panel.done()
    panel.at("open-notebook").click()
    page.locator(".jp-Notebook .jp-OutputArea-output img").first.wait_for()
    page.wait_for_timeout(1000)
    shot("done")
    panel.at("transcript").evaluate("box => box.scrollTo(0, 0)")
    shot("top")
    panel.at("image-2").click()
    shot("viewer")
    page.keyboard.press("Escape")
    panel.at("step-0").hover()
    panel.at("rewind-0").click()
    expect(panel.at("step-1")).to_be_hidden()
    panel.at("question").fill("And what colour is it?")
    panel.at("ask").click()
    panel.done(1)
    panel.at("show-branches").click()
    panel.at("step-0").hover()
    panel.at("fork-0").click()
    page.wait_for_timeout(1000)
    panel.at("run-audit").click()
    shot("branches")
    panel.at("history").click()
    shot("history")
    panel.at("new").click()
    panel.run("Show me an exception")
    panel.done()
    shot("error")
    panel.at("settings").click()
    page.locator(".jp-SettingsPanel").wait_for()
    shot("settings")
    panel.at("widen").click()
    shot("wide")
    narrow = opened(page, lab, theme, width=320)
    narrow.at("history").click()
    narrow.at("runs").locator("button", has_text="What is written").last.click()
    narrow.done()
    shot("narrow")


def main(folder: Path) -> None:
    """Take them all."""
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as place, playing(by_question(SHOWN), pause=0.03) as url:
        with running(Path(place), env={"CODEVISION_BASE_URL": url}) as lab, chromium() as browser:
            sample(lab.root / "parcel.png")
            for theme in THEMES:
                page = browser.new_page(viewport={"width": 1400, "height": 900})
                page.set_default_timeout(20_000)
                take(folder, theme, page, lab)
                page.close()
    for picture in sorted(folder.glob("*.png")):
        print(f"{picture}  {picture.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "screenshots"))
