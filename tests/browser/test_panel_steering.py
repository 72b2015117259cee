"""A person steers: approve, change, refuse, edit and go on, rewind, branch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.labs import Lab
from tests.browser.panel import Panel

pytestmark = pytest.mark.browser


@pytest.fixture
def waiting(settings: Callable[..., None], visit: Callable[..., Page], lab: Lab) -> Panel:
    """A run whose first step waits to be approved, by the user's settings."""
    settings(approveEach=True)
    panel = Panel(page=visit(), lab=lab)
    panel.run("Have two looks [two]")
    expect(panel.at("approval")).to_be_visible()
    expect(panel.at("state")).to_have_text("waits for you")
    return panel


def write(panel: Panel, where: str, code: str) -> None:
    """Put code into an editor of the panel."""
    editor = panel.at(where).get_by_test_id("codevision-code-editor").locator(".cm-content")
    expect(editor).to_be_visible()
    editor.fill(code)


def test_a_step_is_approved_and_the_next_one_waits(waiting: Panel) -> None:
    waiting.at("approve").click()
    expect(waiting.at("step-0")).to_contain_text("first look")
    expect(waiting.at("step-1").get_by_test_id("codevision-approval")).to_be_visible()
    waiting.at("approve-each").click()  # no more questions: this one goes on as well
    expect(waiting.done()).to_contain_text("two looks")


def test_a_step_is_changed_before_it_runs(waiting: Panel) -> None:
    waiting.at("approve-edit").click()
    write(waiting, "step-0", "print('a look of my own')\nvalue = 7")
    expect(waiting.at("approve")).to_have_text("Run edited code")
    waiting.at("approve").click()
    outputs = waiting.at("step-0").get_by_test_id("codevision-outputs")
    expect(outputs).to_contain_text("a look of my own")
    expect(waiting.at("step-0")).to_contain_text("A person edited this code.")
    waiting.at("approve").click()
    expect(waiting.at("step-1").get_by_test_id("codevision-outputs")).to_contain_text("second look 7")


def test_a_step_is_refused_with_a_reason(waiting: Panel) -> None:
    waiting.at("refuse").click()
    waiting.at("refuse-reason").fill("too dear")
    waiting.at("refuse-reason").press("Enter")
    expect(waiting.at("step-0")).to_have_attribute("data-status", "refused")
    waiting.at("approve").click()
    expect(waiting.done()).to_contain_text("two looks")
    events = waiting.lab.events(waiting.newest()["id"])
    assert next(event["status"] for event in events if event["type"] == "step") == "refused"


def test_a_step_is_edited_afterwards_and_the_run_goes_on_in_a_branch(panel: Panel) -> None:
    first = panel.run("Have two looks [two]")
    panel.done()
    panel.at("step-0").hover()
    panel.at("edit-0").click()
    write(panel, "step-0", "print('third look')\nvalue = 3")
    panel.at("edit-run").click()
    expect(panel.at("step-0").get_by_test_id("codevision-outputs")).to_contain_text("third look")
    expect(panel.done()).to_contain_text("two looks")
    expect(panel.at("step-1").get_by_test_id("codevision-outputs")).to_contain_text("second look 3")
    branch = panel.lab.api("runs")["runs"]
    assert {"run": first, "steps": 0} in [run["parent"] for run in branch]
    kept = [event for event in panel.lab.events(first) if event["type"] == "step"]
    assert kept[0]["outputs"][0]["text"] == "first look\n"
    edited = next(run["id"] for run in branch if run["parent"] == {"run": first, "steps": 0})
    panel.at("close").click()
    expect(panel.at("state")).to_have_text("closed")
    panel.at("history").click()
    panel.at(f"run-{edited}").click()  # from its notebook: what ran is still what is shown
    expect(panel.at("step-0").get_by_test_id("codevision-code")).to_contain_text("print('third look')")
    expect(panel.at("step-0")).to_contain_text("A person edited this code.")


def test_rewind_and_fork_make_a_tree_whose_runs_can_be_visited(panel: Panel) -> None:
    first = panel.run("Have two looks [two]")
    panel.done()
    panel.at("show-branches").click()
    tree = panel.at("branches")
    expect(tree).to_contain_text("No branch yet")
    panel.at("step-0").hover()
    panel.at("rewind-0").click()
    expect(tree.locator("button.cv-Branch")).to_have_count(2)
    expect(panel.at("step-0")).to_be_visible()
    expect(panel.at("step-1")).to_be_hidden()
    expect(tree.locator('[aria-current="true"]')).to_contain_text("from step 1")
    panel.at("step-0").hover()
    panel.at("fork-0").click()
    expect(tree.locator("button.cv-Branch")).to_have_count(3)
    expect(tree.locator("ul ul ul button")).to_have_count(1)
    panel.at(f"branch-{first}").click()
    expect(panel.at("step-1")).to_contain_text("second look 1")
    expect(panel.at(f"branch-{first}")).to_have_attribute("aria-current", "true")
    panel.at("question").fill("And what colour is it? [colour]")
    panel.at("ask").click()
    panel.done(1)
    panel.at("rewind-turn-1").click()
    expect(panel.at("turn-1")).to_be_hidden()
    expect(tree.locator("button.cv-Branch")).to_have_count(4)
