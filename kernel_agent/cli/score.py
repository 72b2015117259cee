"""`codevision score`: a thin face on rewards/. Exit codes: 0 scored, 1 an error that was named, 2 wrong usage."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kernel_agent.cli.options import OneObject, SavedRun
from kernel_agent.cli.terminal import named, plain

if TYPE_CHECKING:
    from kernel_agent.rewards import Score

HELP = """Score a saved run: every component of a reward with its value, its weight and what it was judged by, and the total.

[bold]Sets[/bold]: default (ours), paper (as published), reference (the released code, faults included); see docs/rewards.md.

[bold]Example[/bold]: codevision score run.ipynb --task task.json --rewards paper --json

The task is one JSON object as in a data set's tasks.jsonl. Answers that the rules count as wrong go to --judge-url, where it is given.
"""


def score(
    run: SavedRun,
    task: Annotated[Path, typer.Option(help="JSON file of the task: question, answers, target, required operations.")],
    rewards: Annotated[str, typer.Option(help="default, paper or reference.")] = "default",
    judge_url: Annotated[str | None, typer.Option(help="OpenAI-compatible server of a judge, up to /v1.")] = None,
    judge_model: Annotated[str | None, typer.Option(help="Its model, where it serves several.")] = None,
    as_json: OneObject = False,
) -> None:
    """Score one run."""
    from kernel_agent.rewards import Judge
    from kernel_agent.rewards import score as compute
    from kernel_agent.tasks.dataset import read_task
    from kernel_agent.trajectory import Trajectory

    with named(), contextlib.ExitStack() as stack:
        judge: Judge | None = None
        if judge_url is not None:
            from kernel_agent.models import OpenAIModel

            judge = Judge(OpenAIModel(judge_model, base_url=judge_url))
            stack.callback(judge.close)
        found = compute(read_task(task), Trajectory.load(run), rewards, judge=judge)
    if as_json:
        print(json.dumps(found.to_json(), ensure_ascii=False))
    else:
        _show(found)


def _show(found: Score) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"Rewards: {found.rewards}", title_justify="left")
    for name in ("component", "value", "weight", "adds"):
        table.add_column(name, justify="left" if name == "component" else "right")
    table.add_column("why")
    for one in found.components:
        numbers = [f"{one.value:.3f}", f"{one.weight:g}", f"{one.contribution:+.3f}"]
        table.add_row(one.name, *numbers, Text(plain(one.explanation)))
    table.add_section()
    table.add_row("total", "", "", f"{found.total:+.3f}", Text(plain(found.verdict.explanation)))
    Console().print(table)
