"""`Trajectory.insert_cells`: a run's steps as real cells under the current one.

Only the page can add cells to an open notebook (`set_next_input` keeps the last one alone), so a comm asks the panel's extension,
which answers how many it inserted. Where nobody answers in `ANSWER_SECONDS`, the run is saved as a notebook of its own.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from kernel_agent.magic.comms import POLL_SECONDS, Comms
from kernel_agent.trajectory import Trajectory
from kernel_agent.trajectory.export import to_insert
from kernel_agent.types import Json

TARGET = "kernel_agent.insert"
ANSWER_SECONDS = 10.0
"""A busy page may take seconds to answer; one without the extension says so at once."""


def insert_cells(trajectory: Trajectory, *, turn: int | None = None) -> Path | None:
    """Insert the cells, or save the whole run in the working folder and return the path. StorageError."""
    from IPython.core.getipython import get_ipython

    problem = _inserted(get_ipython(), to_insert(trajectory, turn=turn))
    if problem is None:
        return None
    path = trajectory.save(f"codevision-{trajectory.run_id[:8]}.ipynb")
    print(f"No cells were inserted ({problem}); the run is in {path.name}.")
    return path


def _inserted(shell: Any, cells: list[Json]) -> str | None:
    """None where the page has inserted them, else why not."""
    kernel = getattr(shell, "kernel", None)
    if kernel is None:
        return "this is no notebook"
    from comm import create_comm

    parent = kernel.get_parent("shell") or {}
    cell_id = parent.get("metadata", {}).get("cellId")
    answers: list[Json] = []
    comm = create_comm(target_name=TARGET, data={"cell_id": cell_id, "cells": cells})
    comm.on_msg(lambda message: answers.append(message["content"]["data"]))
    comm.on_close(lambda message: answers.append({"problem": "this page has no CodeVision extension"}))
    end = time.monotonic() + ANSWER_SECONDS
    with Comms(shell) as comms:
        while not answers and time.monotonic() < end:
            comms.poll()
            time.sleep(POLL_SECONDS)
    if not answers:
        comm.close()
        return "no page with the CodeVision extension answered"
    problem = answers[0].get("problem")
    return None if problem is None else str(problem)
