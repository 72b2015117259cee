"""The journal beside a notebook: there only while a run goes on, or after it was cut off.

Guarantees: its chain of hashes and its blobs are checked, each record is compared with what the notebook holds, and a damaged
one is named by its line. A journal that is longer than its notebook is "unchecked", with the remedy. Nothing is written.
Not found: a last record changed in a journal that is longer than its notebook; a journal carries no signature.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kernel_agent.audit.finding import Finding, Outcome
from kernel_agent.errors import TrajectoryError
from kernel_agent.trajectory import Trajectory, files
from kernel_agent.trajectory.codec import encode
from kernel_agent.trajectory.journal import NAME, Entry, read_blob, read_journal
from kernel_agent.trajectory.reading import FOREIGN_VALUES, MAX_BYTES
from kernel_agent.trajectory.records import write_step
from kernel_agent.types import Json


def check_journal(notebook: Path, trajectory: Trajectory | None) -> list[Finding]:
    """All that is wrong with the journal beside a notebook, and that there is one. Nothing where there is none."""
    notebook = notebook.resolve()  # it lies beside the file, not beside a link to it
    folder = files.folder_of(notebook)
    if not (folder / NAME).is_file():
        return []
    try:
        entries, torn = read_journal(folder, FOREIGN_VALUES)
        found = list(_blobs(folder, entries))
        if trajectory is not None:
            found += _compare(entries, trajectory)
    except (TrajectoryError, OSError, AttributeError, KeyError, TypeError) as error:
        return [_finding(Outcome.FAILS, NAME, str(error))]
    told = f"{len(entries)} records: the run goes on or was cut off: codevision recover {notebook.name}"
    return [*found, _finding(Outcome.UNCHECKED, NAME, told + ("; the last record is torn" if torn else ""))]


def _blobs(folder: Path, entries: list[Entry]) -> Iterator[Finding]:
    """The bytes that records name, each once."""
    seen: set[str] = set()
    left = MAX_BYTES
    for entry in entries:
        names = [entry.data.get("blob")] if entry.type == "base" else []
        if entry.type == "step":
            names = [image.get(key) for image in entry.data.get("images", ()) for key in ("data_sha256", "view_sha256")]
        for name in dict.fromkeys(map(str, names)):
            if name in seen:
                continue
            seen.add(name)
            try:
                left -= len(read_blob(folder, name, left))
            except TrajectoryError as error:
                yield _finding(Outcome.FAILS, f"record {entry.seq}", str(error))


def _compare(entries: list[Entry], trajectory: Trajectory) -> Iterator[Finding]:
    """Each record against the notebook's."""
    state = trajectory._state
    steps, beyond = len(state.steps), 0
    for entry in entries:
        number = entry.data.get("number")
        held: Json = None
        if not isinstance(number, int):
            continue
        if entry.type == "step" and number < steps:
            held = {"number": number, **write_step(state.steps[number], state.images)}
        elif entry.type == "turn" and number < len(state.turns):
            turn = state.turns[number]
            held = {"number": number, "question": encode(turn.question), "started": turn.started}
        elif entry.type == "end" and number < len(state.turns) and state.turns[number].stop_reason is not None:
            turn = state.turns[number]
            ended = {"answer": encode(turn.answer), "stop_reason": encode(turn.stop_reason), "seconds": turn.seconds}
            held = {"number": number, **ended}
        elif entry.type == "event" and number < len(state.events):
            held = {"number": number, "event": encode(state.events[number])}
        if held is None:
            beyond += 1
        elif held != entry.data:
            yield _finding(Outcome.FAILS, f"record {entry.seq}", f"the notebook has another {entry.type} {number}")
    if beyond:
        yield _finding(Outcome.UNCHECKED, NAME, f"{beyond} records are not in the notebook yet")


def _finding(outcome: Outcome, field: str, message: str) -> Finding:
    return Finding(check="integrity", outcome=outcome, cell="journal", field=field, message=message[:500])
