"""`codevision recover` and `codevision export`: notebooks made from what a run left."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kernel_agent.cli.options import Force, SavedRun
from kernel_agent.cli.terminal import named


def recover(notebook: Annotated[Path, typer.Argument(help="RUN.ipynb of a run that crashed.")]) -> None:
    """Rebuild a notebook from the journal beside it after a crash. Loses at most the step in flight."""
    from kernel_agent.trajectory import recover as rebuild

    with named():
        trajectory = rebuild(notebook)
    print(f"{notebook}: {len(trajectory.steps)} steps, ended by {trajectory.stop_reason}.")


def export(
    notebook: SavedRun,
    output: Annotated[Path, typer.Option("--output", "-o", help="Notebook to write.")],
    force: Force = False,
) -> None:
    """Write a self-contained copy: it re-runs anywhere with only Pillow and NumPy."""
    from kernel_agent.trajectory import Trajectory
    from kernel_agent.trajectory.export import write_self_contained

    with named():
        if output.exists() and not force:
            raise typer.BadParameter(f"{output} exists: choose another name or add --force.")
        write_self_contained(Trajectory.load(notebook), output)
    print(output)
