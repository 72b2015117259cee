"""`codevision doctor`: a thin face on doctor.py. Exit codes: 0 all works, 1 something does not."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def doctor(
    base_url: Annotated[
        str | None, typer.Option(help="A model server to try as well.", envvar="CODEVISION_BASE_URL")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """Say what works on this machine, and how to mend what does not."""
    from dataclasses import asdict

    from kernel_agent.doctor import checks

    found = checks(base_url=base_url)
    if as_json:
        print(json.dumps([asdict(check) for check in found]))
    else:
        from rich.console import Console

        console = Console()
        marks = {True: "[green]ok  [/]", False: "[red]FAIL[/]", None: "[yellow]--  [/]"}
        for check in found:
            console.print(f"{marks[check.ok]} [bold]{check.name}[/]: ", end="")
            console.print(check.detail, markup=False, highlight=False)
            if check.remedy and check.ok is not True:
                console.print(f"       {check.remedy}", markup=False, highlight=False)
    if any(check.ok is False for check in found):
        raise typer.Exit(1)
