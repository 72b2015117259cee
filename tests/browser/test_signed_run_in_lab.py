"""A signed run opened, edited, run and saved by a person in JupyterLab: what the audit says of the file on the disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from kernel_agent import Agent, Budget, Task
from kernel_agent.audit.audit import audit_file
from kernel_agent.audit.finding import Report
from kernel_agent.audit.keys import load_signer, make_key
from kernel_agent.audit.rerun_setup import RerunOptions
from kernel_agent.audit.seal import Expected, sign_file
from kernel_agent.blocking import run_blocking
from kernel_agent.models import ScriptedModel
from tests.browser.labs import Lab
from tests.browser.panel import Panel, save
from tests.browser.test_panel_insert import kernel_is_there

pytestmark = pytest.mark.browser

CODES = ("print('seen', image_0.size)", "image_0.rotate(90, expand=True)", "1 / 0")


class Opened:
    """A signed run of its own in the Lab, and what a person does to it."""

    def __init__(self, page: Page, lab: Lab, path: Path, key: str) -> None:
        self.page, self.lab, self.path, self.key = page, lab, path, key
        expect(page.locator(".jp-Notebook .jp-MarkdownCell", has_text="The model answered.")).to_be_visible()

    def cell(self, code: str) -> Locator:
        return self.page.locator(".jp-Notebook .jp-CodeCell").filter(has=self.page.get_by_text(code, exact=False)).first

    def save(self) -> None:
        """Save as a person does."""
        self.page.locator(".jp-Notebook .jp-MarkdownCell").last.click()
        save(self.page, self.path)

    def run(self, code: str) -> None:
        """Run a cell with the kernel of the Lab, to its end."""
        kernel_is_there(Panel(page=self.page, lab=self.lab))
        self.cell(code).locator(".cm-content").click()
        self.page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-cell').then(() => null)")

    def audit(self) -> Report:
        expected = Expected(signers=(self.key,))
        return run_blocking(audit_file(self.path, RerunOptions(code=False), expected=expected))[0]

    def places(self) -> set[tuple[str, str, str]]:
        return {(finding.check, finding.cell, finding.field) for finding in self.audit().findings}


@pytest.fixture
def opened(visit: Callable[..., Page], lab: Lab, tmp_path: Path, request: pytest.FixtureRequest) -> Opened:
    path = lab.root / f"{request.node.name}.ipynb"
    replies = [f"I look.\n```python\n{code}\n```" for code in CODES]
    model = ScriptedModel([*replies, "<answer>7</answer>"])
    agent = Agent(model, protocol="fenced", budget=Budget(steps=len(CODES) + 1))
    with Image.open(lab.root / "parcel.png") as picture:
        task = Task(question="How many?", images=(picture.resize((64, 40)),))
    agent.run(task, save_to=path)
    make_key(tmp_path / "key.pem")
    sign_file(path, signer := load_signer(tmp_path / "key.pem"))
    return Opened(visit(path.name), lab, path, str(signer.public_key.keyid))


def test_saving_changes_every_byte_and_no_content(opened: Opened) -> None:
    before = opened.path.read_bytes()
    opened.save()
    assert opened.path.read_bytes() != before
    report = opened.audit()
    assert (report.findings, report.exit_code) == ((), 0)
    assert report.seal is not None


def test_folding_and_trusting_are_no_content(opened: Opened) -> None:
    code = opened.cell("rotate(90")
    code.locator(".jp-InputCollapser").click()
    code.locator(".jp-OutputCollapser").click()
    opened.page.evaluate("() => void window.jupyterapp.commands.execute('notebook:trust')")
    opened.page.locator(".jp-Dialog button.jp-mod-accept").click()
    opened.save()
    assert b'"source_hidden"' in opened.path.read_bytes()
    assert b'"outputs_hidden"' in opened.path.read_bytes()
    assert opened.audit().findings == ()


def test_one_character_of_code_is_found_and_named(opened: Opened) -> None:
    opened.cell("rotate(90").locator(".cm-content").click()
    opened.page.keyboard.press("Control+Home")
    for _ in "image_0.rotate(9":
        opened.page.keyboard.press("ArrowRight")
    opened.page.keyboard.press("Delete")
    opened.page.keyboard.type("1")
    expect(opened.cell("rotate(91")).to_be_visible()
    opened.save()
    assert opened.places() == {("integrity", "step 2", "source"), ("what a reader sees", "step 2", "source")}


def test_words_and_order_of_cells_are_found_and_named(opened: Opened) -> None:
    answer = opened.page.locator(".jp-Notebook .jp-MarkdownCell").last
    answer.locator(".jp-RenderedMarkdown").dblclick()
    answer.locator(".cm-content").click()
    opened.page.keyboard.press("Control+End")
    opened.page.keyboard.type("!")
    opened.page.keyboard.press("Control+Enter")
    opened.cell("1 / 0").locator(".jp-InputPrompt").click()
    opened.page.keyboard.press("Control+Shift+ArrowUp")
    opened.save()
    found = opened.places()
    assert ("integrity", "turn 1, answer", "source") in found
    assert ("integrity", "step 3", "order") in found or ("integrity", "step 3, thought", "order") in found


def test_cells_that_are_run_again_are_told(opened: Opened) -> None:
    """The picture has the same pixels, which a reader may see as well as the old; but it is not the file that was signed."""
    opened.run("open_notebook")
    opened.run("rotate(90")
    expect(opened.cell("rotate(90").locator(".jp-OutputArea-output img")).to_be_visible()
    opened.save()
    report = opened.audit()
    assert report.exit_code == 1
    assert {finding.check for finding in report.findings} == {"integrity"}
    assert {finding.cell for finding in report.findings} <= {"setup", "step 2"}
    assert any(finding.cell == "step 2" and finding.field.startswith("outputs[0]") for finding in report.findings)


def test_a_cell_that_is_run_again_and_says_something_else_is_told(opened: Opened) -> None:
    opened.run("'seen'")  # image_0 is not there: an error in place of the text
    expect(opened.cell("'seen'")).to_contain_text("NameError")
    opened.save()
    found = opened.places()
    assert ("integrity", "step 1", "outputs[0].ename") in found
    assert ("what a reader sees", "step 1", "outputs[0].text") in found
