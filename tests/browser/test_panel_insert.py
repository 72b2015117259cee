"""Cells that a kernel sends into its notebook over the comm target `kernel_agent.insert`."""

from __future__ import annotations

import json
from collections.abc import Callable

import nbformat
import pytest
from playwright.sync_api import Page, expect

from tests.browser.labs import Lab
from tests.browser.panel import Panel
from tests.browser.stories import HOSTILE

pytestmark = pytest.mark.browser

CELLS = [
    {"cell_type": "markdown", "metadata": {}, "source": "put here"},
    {
        "cell_type": "code",
        "metadata": {"trusted": True},
        "source": "value = 41 + 1",
        "execution_count": 1,
        "outputs": [
            {"output_type": "display_data", "metadata": {}, "data": {"text/html": HOSTILE, "text/plain": "plain"}}
        ],
    },
]


def sending(cell: str, cells: object = CELLS) -> str:
    """The source of a cell that sends cells; `cell` is an expression for the id."""
    return (
        "import json\nfrom comm import create_comm\n"
        "mine = get_ipython().kernel.get_parent()['metadata'].get('cellId')\nanswers = []\n"
        f"cells = json.loads({json.dumps(cells)!r})\n"
        f"comm = create_comm(target_name='kernel_agent.insert', data={{'cell_id': {cell}, 'cells': cells}})\n"
        "comm.on_msg(lambda message: answers.append(message['content']['data']))"
    )


def notebook(visit: Callable[..., Page], lab: Lab, name: str, *sources: str) -> Panel:
    panel = Panel(page=visit(lab.notebook(name, *map(nbformat.v4.new_code_cell, sources))), lab=lab)
    expect(panel.page.locator(".jp-Notebook .jp-Cell")).to_have_count(len(sources))
    kernel_is_there(panel)
    return panel


def kernel_is_there(panel: Panel) -> None:
    """Wait for the kernel; after a restart JupyterLab calls it "starting" until something is run."""
    panel.page.wait_for_function(
        "() => { const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session?.kernel;"
        " return kernel?.connectionStatus === 'connected' && ['idle', 'starting'].includes(kernel.status) }"
    )


def execute(panel: Panel, index: int) -> None:
    """Run a cell to its end, and leave the selection on it."""
    panel.page.locator(".jp-Notebook .jp-Cell").nth(index).locator(".cm-content").click()
    panel.page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-cell').then(() => null)")


def answered(panel: Panel, index: int) -> str:
    """What the cell of this index prints, which prints the answers: run until there is one, as it comes by a way of its own."""
    output = panel.page.locator(".jp-Notebook .jp-Cell").nth(index).locator(".jp-OutputArea-output")
    for _ in range(100):
        execute(panel, index)
        if (text := (output.text_content() or "").strip()) != "[]":
            return text
        panel.page.wait_for_timeout(200)
    raise AssertionError("the page does not answer")


def test_cells_go_in_below_the_cell_that_sent_them(visit: Callable[..., Page], lab: Lab) -> None:
    panel = notebook(visit, lab, "send.ipynb", sending("mine"), "print(answers)", "'end'")
    panel.page.locator(".jp-Notebook .jp-Cell").nth(2).click()
    execute(panel, 0)
    expect(panel.page.locator(".jp-Notebook .jp-Cell")).to_have_count(5)
    assert [source.split("\n")[0] for source in panel.cells()] == [
        "import json",
        "put here",
        "value = 41 + 1",
        "print(answers)",
        "'end'",
    ]
    assert panel.page.evaluate("() => window.jupyterapp.shell.currentWidget.content.activeCellIndex") == 0
    assert answered(panel, 3) == "[{'inserted': 2}]"
    html = panel.page.locator(".jp-Notebook .jp-Cell").nth(2).locator(".jp-OutputArea-output")
    expect(html).to_contain_text("bold")
    assert html.locator("script").count() == 0
    panel.undo()
    expect(panel.page.locator(".jp-Notebook .jp-Cell")).to_have_count(3)
    assert [source.split("\n")[0] for source in panel.cells()] == ["import json", "print(answers)", "'end'"]


def test_an_unknown_id_means_the_active_cell(visit: Callable[..., Page], lab: Lab) -> None:
    panel = notebook(visit, lab, "unknown.ipynb", sending("'no such cell'"), "'end'")
    execute(panel, 0)
    expect(panel.page.locator(".jp-Notebook .jp-Cell")).to_have_count(4)
    assert panel.cells()[1] == "put here"


def test_what_is_no_list_of_cells_is_answered_with_the_problem(visit: Callable[..., Page], lab: Lab) -> None:
    panel = notebook(visit, lab, "bad.ipynb", sending("None", [{"cell_type": "html", "source": 1}]), "print(answers)")
    execute(panel, 0)
    assert "problem" in answered(panel, 1)
    expect(panel.page.locator(".jp-Notebook .jp-Cell")).to_have_count(2)


def test_after_a_restart_and_with_another_kernel(visit: Callable[..., Page], lab: Lab) -> None:
    panel = notebook(visit, lab, "restart.ipynb", sending("mine"), "'end'")
    panel.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    kernel_is_there(panel)
    execute(panel, 0)
    expect(panel.page.locator(".jp-Notebook .jp-Cell")).to_have_count(4)
    panel.page.evaluate(
        "() => window.jupyterapp.shell.currentWidget.sessionContext.changeKernel({name: 'python3'}).then(() => null)"
    )
    kernel_is_there(panel)
    execute(panel, 0)
    expect(panel.page.locator(".jp-Notebook .jp-Cell")).to_have_count(6)
