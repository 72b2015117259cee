"""A run and its notebook: `Trajectory` in memory, on disk, and back. Light to import (no Jupyter, no Pillow)."""

from __future__ import annotations

import os

from kernel_agent.trajectory.records import SCHEMA, Turn
from kernel_agent.trajectory.trajectory import Trajectory

__all__ = ["SCHEMA", "Trajectory", "Turn", "recover"]


def recover(path: str | os.PathLike[str], *, keep: bool = False) -> Trajectory:
    """Bring a crashed run back from the journal beside its notebook, and write the notebook anew. See `recovery.recover`."""
    return Trajectory.recover(path, keep=keep)
