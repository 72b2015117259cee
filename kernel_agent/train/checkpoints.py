"""The checkpoints of transformers' Trainer in a folder."""

from __future__ import annotations

import json
from pathlib import Path


def last_checkpoint(folder: Path) -> Path | None:
    """The newest that was written to its end: the trainer's state comes last."""
    whole: list[tuple[int, Path]] = []
    for path in folder.glob("checkpoint-*"):
        try:
            state = json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
            whole.append((int(state["global_step"]), path))
        except (OSError, ValueError, KeyError):
            continue
    return max(whole)[1] if whole else None
