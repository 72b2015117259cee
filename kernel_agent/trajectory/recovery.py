"""Bring a run back from its journal after the process went away at any point.

At most the step in flight is lost. The notebook is written anew from the journal; one that somebody edited meanwhile is left as it
is, and the recovered one gets another name.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import orjson

from kernel_agent.errors import TrajectoryError
from kernel_agent.trajectory import files, notebook
from kernel_agent.trajectory.codec import decode, plain
from kernel_agent.trajectory.journal import NAME, Entry, read_blob, read_journal
from kernel_agent.trajectory.reading import read_file
from kernel_agent.trajectory.records import Turn, read_step
from kernel_agent.trajectory.state import Mark, State
from kernel_agent.trajectory.store import remove_folder, whole_cells
from kernel_agent.types import Event, Json, StopReason


def recover(path: str | os.PathLike[str], *, keep: bool = False) -> tuple[State, Path]:
    """Rebuild the run of `path` (the notebook or the folder beside it) and write its notebook; returns both.

    Args:
        path: `RUN.ipynb` or `RUN.codevision`.
        keep: leave journal and blobs where they are.

    Raises:
        TrajectoryError: the journal is damaged in the middle, or there is neither a journal nor a readable notebook.
        StorageError: the run is still being written, or the notebook cannot be written.
    """
    target = files.notebook_path(Path(path).with_suffix(".ipynb"))
    folder = files.folder_of(target)
    if not folder.is_dir():
        return _without_journal(target), target
    with files.explained(target, 0):
        lock = files.Lock(folder, target)
    try:
        entries, torn = read_journal(folder)
        if not entries:
            state = _without_journal(target)
        else:
            state, target = _from_journal(folder, target, entries, torn)
        if not keep:
            remove_folder(folder)
    finally:
        lock.release()
    return state, target


def _without_journal(target: Path) -> State:
    if not target.exists():
        raise TrajectoryError(
            f"there is nothing to recover: neither {target.name} nor a journal in {files.folder_of(target).name} in"
            f" {target.parent}; the run ended before anything was recorded"
        )
    return notebook.read(notebook.parse(read_file(target), target.name), target.name)


def _from_journal(folder: Path, target: Path, entries: list[Entry], torn: bool) -> tuple[State, Path]:
    if entries[0].type != "base":
        raise TrajectoryError(f"{folder.name}/{NAME} does not begin with the notebook it belongs to")
    base = read_blob(folder, entries[0].data["blob"])
    parsed = notebook.parse(base, f"the blob of {folder.name}")
    state = notebook.read(parsed, target.name)
    since = Mark.of(state)
    for entry in entries[1:]:
        try:
            if entry.type == "path":
                target = target.with_name(Path(entry.data["to"]).name)
            else:
                _apply(state, entry, folder)
        except (KeyError, TypeError) as error:
            raise TrajectoryError(f"{folder.name}/{NAME}: record {entry.seq} ({entry.type}) lacks {error}") from error
    written = whole_cells(base, since, state)
    now = time.time()
    if state.open_turn is not None:
        seconds = max(entries[-1].time - state.open_turn.started, 0.0)
        state.turns[-1] = replace(state.open_turn, stop_reason=StopReason.CRASHED, seconds=seconds)
        state.events.append(Event(kind="recovered", time=now, data={"steps": len(state.steps), "torn_record": torn}))
    if target.exists() and not _is_only_ours(target.read_bytes(), written, parsed["cells"]):
        old, target = target, files.free_name(target)
        data = {"from": old.name, "to": target.name, "reason": "it was changed by another program"}
        state.events.append(Event(kind="notebook_moved", time=now, data=data))
    data_out = notebook.document(whole_cells(base, since, state), notebook.tail(state))
    with files.explained(target, len(data_out)):
        files.write_atomically(target, data_out, folder / "notebook.tmp")
    return state, target


def _apply(state: State, entry: Entry, folder: Path) -> None:
    where = f"record {entry.seq}"
    data = entry.data
    now = Mark.of(state)
    counts = {"turn": now.turns, "step": now.steps, "end": now.ends, "event": now.events}
    if entry.type in counts and data["number"] < counts[entry.type]:
        return  # written twice: the process was interrupted right after it had written the first
    if entry.type == "turn":
        state.turns.append(
            Turn(
                question=decode(str, data["question"], where=where),
                first_step=len(state.steps),
                started=data["started"],
            )
        )
    elif entry.type == "step":
        state.steps.append(read_step(data, state.images, lambda digest: read_blob(folder, digest), where))
    elif entry.type == "end":
        answer = plain(data["answer"])
        stop = decode(StopReason, data["stop_reason"], where=where)
        state.turns[-1] = replace(state.turns[-1], answer=answer, stop_reason=stop, seconds=data["seconds"])
    elif entry.type == "event":
        state.events.append(decode(Event, data["event"], where=where))
    elif entry.type != "close":
        raise TrajectoryError(f"{where} has the unknown type {entry.type!r}: written by another version?")


def _is_only_ours(data: bytes, written: list[bytes], base: list[Json]) -> bool:
    """Whether a notebook holds nothing that the journal does not: cut off by the crash, or some of our cells in order."""
    try:
        cells = orjson.loads(data)["cells"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return True  # torn while it was written
    if cells == base:
        return True
    return len(cells) <= len(written) and all(
        cell == orjson.loads(ours) for cell, ours in zip(cells, written, strict=False)
    )
