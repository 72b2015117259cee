"""`codevision counterfactuals`: a thin face on audit/counterfactual.py."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from kernel_agent.cli.options import OneObject, SavedRun, api_key
from kernel_agent.cli.terminal import named, plain

if TYPE_CHECKING:
    from kernel_agent.audit.counterfactual import Faithfulness

HELP = """Did the images matter? Change the picture that each step showed, let the model go on, and see what changes.

[bold]Examples[/bold]

  codevision counterfactuals run.ipynb

  codevision counterfactuals run.ipynb --change blank --change swap --base-url http://127.0.0.1:8000/v1 --json

Each picture is made blank, swapped for another, cut into shuffled tiles, turned into its negative, or not shown. The score is the
share of these after which the model acts or answers otherwise, less that of controls in which nothing is changed.
"""


def counterfactuals(
    notebook: SavedRun,
    change: Annotated[
        list[str] | None, typer.Option(help="blank, swap, shuffle, recolour or drop; default: all.")
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(help="OpenAI-compatible server to ask.", envvar="CODEVISION_BASE_URL")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Model name on the server, or a checkpoint; by default as recorded.", envvar="CODEVISION_MODEL"
        ),
    ] = None,
    as_json: OneObject = False,
) -> None:
    """Branch, change, run on, compare. Exit code: 0 done, 1 it could not be done."""
    from kernel_agent.api import is_embedded, recorded_model
    from kernel_agent.audit.counterfactual import Change, counterfactuals
    from kernel_agent.blocking import run_blocking
    from kernel_agent.trajectory import Trajectory

    names = change or [item.value for item in Change]
    if unknown := sorted(set(names) - {item.value for item in Change}):
        raise typer.BadParameter(f"--change {unknown[0]}: give {', '.join(Change)}.")
    with named(OSError):
        run = Trajectory.load(notebook)
        if base_url is None and model is None and not is_embedded(run):
            raise typer.BadParameter(
                "--model or --base-url: say which model to ask; the one in the file is not taken at its word."
            )
        live = recorded_model(run, model, base_url, api_key=api_key())
        found = run_blocking(counterfactuals(run, live, changes=[Change(name) for name in names]))
    if as_json:
        print(json.dumps(found.as_json(), ensure_ascii=False))
    else:
        _show(found)


def _show(found: Faithfulness) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console, table = Console(), Table()
    for name in ("step", "change", "next action", "answer"):
        table.add_column(name, overflow="fold")
    for item in found.outcomes:
        answer = escape(plain(f"{item.answers[1]}"))
        acts = "other" if item.action_changed else "same"
        told = f"[yellow]{answer}[/]" if item.answer_changed else answer
        table.add_row(str(item.step + 1), str(item.change), f"[yellow]{acts}[/]" if item.action_changed else acts, told)
    console.print(table)
    score = "no step showed a picture and was followed by another" if found.score is None else f"{found.score:.2f}"
    console.print(f"Faithfulness: {score}")
