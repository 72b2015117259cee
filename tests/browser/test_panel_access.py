"""For everybody: names for screen readers, the keyboard alone, both themes (axe-core looks for what breaks WCAG 2 A and AA)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.panel import Panel

pytestmark = pytest.mark.browser

AXE = Path(__file__).parents[2] / "extensions/jupyterlab/node_modules/axe-core/axe.min.js"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]


def violations(page: Page, selector: str) -> list[str]:
    """What axe finds wrong in a part of the page."""
    if not page.evaluate("() => 'axe' in window"):
        page.add_script_tag(content=AXE.read_text())
    found: Any = page.evaluate(
        "([selector, rules]) => axe.run(selector, {runOnly: rules}).then(result => result.violations)",
        [selector, RULES],
    )
    return [
        f"{rule['id']}: {node['html'][:160]} {node['failureSummary'][:300]}" for rule in found for node in rule["nodes"]
    ]


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_axe_finds_nothing(panel: Panel, theme: str) -> None:
    panel.page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", theme)
    panel.page.wait_for_function(
        "theme => document.body.dataset.jpThemeName === theme && !document.querySelector('.jp-SplashScreen, #jupyterlab-splash')",
        arg=theme,
    )
    panel.open()
    page = panel.page
    assert violations(page, "#codevision-panel") == []
    panel.run("Fail for me [error]")
    panel.done()
    assert violations(page, "#codevision-panel") == []
    panel.at("new").click()
    panel.run("What is on the label? [label]")
    panel.done()
    panel.at("show-branches").click()
    panel.at("run-audit").click()
    assert violations(page, "#codevision-panel") == []
    panel.at("image-2").click()
    expect(panel.at("viewer")).to_be_focused()
    assert violations(page, ".cv-Viewer") == []
    page.keyboard.press("Escape")
    panel.at("history").click()
    expect(panel.at("runs").locator("li").first).to_be_visible()
    assert violations(page, "#codevision-panel") == []


def test_every_control_has_a_name(panel: Panel) -> None:
    panel.run("What is on the label? [label]")
    panel.done()
    nameless = panel.page.evaluate(
        "() => Array.from(document.querySelectorAll('#codevision-panel button, #codevision-panel input, #codevision-panel textarea'))"
        ".filter(node => !(node.getAttribute('aria-label') || node.textContent.trim() || node.labels?.length)).map(node => node.outerHTML)"
    )
    assert nameless == []


def test_a_run_by_keyboard_alone(panel: Panel) -> None:
    panel.choose()
    keyboard = panel.page.keyboard
    panel.at("question").focus()
    keyboard.type("Have two looks [two]")
    keyboard.press("Shift+Enter")
    keyboard.type("please")
    assert panel.at("question").input_value() == "Have two looks [two]\nplease"
    keyboard.press("Enter")
    panel.done()
    assert panel.newest()["question"] == "Have two looks [two]\nplease"
    expect(panel.at("live")).to_have_text("Answer: two looks")
    reached = set()
    for _ in range(60):
        keyboard.press("Shift+Tab")
        reached.add(panel.page.evaluate("() => document.activeElement?.dataset?.testid ?? ''"))
    for name in (
        "rewind-1",
        "edit-0",
        "image-0",
        "transcript",
        "insert",
        "open-notebook",
        "show-branches",
        "history",
        "new",
    ):
        assert f"codevision-{name}" in reached, name


def test_the_panel_is_a_command(visit: Callable[..., Page], panel: Panel) -> None:
    panel.page.keyboard.press("Control+Shift+C")
    panel.page.locator(".lm-CommandPalette-input:visible").fill("CodeVision")
    panel.page.locator(".lm-CommandPalette-item", has_text="CodeVision").first.click()
    expect(panel.at("question")).to_be_visible()
