"""The saved runs of a folder, from the end of each notebook: their cells, with all pictures, are not read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from kernel_agent.types import Json

TAIL_BYTES = 262_144
_KEY = "codevision"


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A notebook of a run. `seen` is what tells that it has changed."""

    id: str
    path: Path
    seen: tuple[int, int]
    turns: tuple[Mapping[str, Json], ...]
    steps: int
    branch_of: Json = field(default=None)

    @property
    def words(self) -> str:
        """All questions and answers, for a search."""
        return " ".join(f"{turn.get('question')} {turn.get('answer') or ''}" for turn in self.turns)

    def line(self) -> Json:
        """A line of a list of runs, as `run.described` makes it of a live one."""
        last = self.turns[-1] if self.turns else {}
        return {
            "id": self.id,
            "question": self.turns[0].get("question") if self.turns else "",
            "answer": last.get("answer"),
            "stop_reason": last.get("stop_reason"),
            "started": self.turns[0].get("started") if self.turns else None,
            "seconds": round(sum(turn.get("seconds") or 0 for turn in self.turns), 3),
            "steps": self.steps,
            "path": str(self.path),
            "parent": self.branch_of,
            "live": False,
            "state": "closed",
        }


def saved_runs(folder: Path, known: Mapping[Path, Saved]) -> dict[Path, Saved]:
    """All runs in a folder; those of `known` that have not changed are not read again. What is no run is left out."""
    found: dict[Path, Saved] = {}
    for entry in os.scandir(folder):
        if entry.name.endswith(".ipynb") and entry.is_file(follow_symlinks=False):
            try:
                path, status = Path(entry.path), entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue  # it was deleted since the folder was read
            seen = (status.st_size, status.st_mtime_ns)
            before = known.get(path)
            saved = before if before is not None and before.seen == seen else _read(path, seen)
            if saved is not None:
                found[path] = saved
    return found


def _read(path: Path, seen: tuple[int, int]) -> Saved | None:
    try:
        metadata = _metadata(path)
        ours = metadata[_KEY]
        turns = tuple(dict(turn) for turn in ours["turns"])
        run, steps, branch_of = ours["run"], ours["steps"], ours["header"].get("branch_of")
    except (OSError, KeyError, TypeError, ValueError, AttributeError):
        return None
    if not isinstance(run, str) or not isinstance(steps, int):
        return None
    return Saved(id=run, path=path, seen=seen, turns=turns, steps=steps, branch_of=branch_of)


def _metadata(path: Path) -> Json:
    """The notebook's metadata, which stands after its cells both as we and as nbformat write it."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - TAIL_BYTES))
        end = file.read()
        at = end.rfind(b'\n "metadata":')
        if at >= 0:
            try:
                return orjson.loads(b"{" + end[at:])["metadata"]
            except orjson.JSONDecodeError:
                pass
        file.seek(0)
        return orjson.loads(file.read())["metadata"]
