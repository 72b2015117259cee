"""Keeps a run on disk while it goes on: the journal beside the notebook, and the notebook valid after every step.

`sync` first journals what is new (durably), then puts the new cells over the notebook's old tail, so that its cost follows what
is new. The journal is the truth after a crash (recovery.py); the notebook itself is made durable when the store is
closed. An edit of the notebook by someone else is never overwritten: the run goes on under another name. After a
StorageError the next `sync` writes all that is missing.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from kernel_agent.errors import StorageError, TrajectoryError
from kernel_agent.trajectory import files, notebook
from kernel_agent.trajectory.cells import cells_since
from kernel_agent.trajectory.codec import encode
from kernel_agent.trajectory.journal import NAME, Journal, read_blob
from kernel_agent.trajectory.reading import read_file
from kernel_agent.trajectory.records import sha256, write_step
from kernel_agent.trajectory.state import Mark, State, course
from kernel_agent.types import Event, Json

Record = tuple[str, Json, dict[str, bytes], Mark]


class Store:
    """One run's file and folder. Where `path` holds the beginning of the run (with `force`), its cells stay as they are."""

    def __init__(self, path: Path, state: State, *, force: bool) -> None:
        self.path = path
        self._folder = files.folder_of(path)
        end = notebook.tail(state)
        kept, since = beginning(path, state) if force else ([], Mark())
        data = notebook.document(notebook.pack([*kept, *cells_since(state, since)]), end)
        with files.explained(path, len(data)):
            self._lock, aside = _open_folder(self._folder, path, force)
            try:
                if path.exists() and not force:
                    raise StorageError(f"{path} exists: overwrite it with --force (force=True), or give another name")
                self._journal = Journal(self._folder)
                digest = sha256(data)
                self._journal.append(
                    "base", {"run": state.run_id, "notebook": path.name, "blob": digest}, {digest: data}
                )
                self._write(data, end, Mark.of(state))
            except BaseException:
                if hasattr(self, "_journal"):
                    self._journal.close()
                shutil.rmtree(self._folder, ignore_errors=True)
                self._lock.release()
                raise
        self._base = (digest, Mark.of(state))
        self._journaled = Mark.of(state)
        if aside is not None:
            state.events.append(Event(kind="journal_moved", time=time.time(), data={"to": aside.name}))
            self.sync(state)

    def sync(self, state: State) -> None:
        """Write all that is new in `state`. StorageError where that fails; nothing written before is lost."""
        for kind, data, blobs, mark in _records(state, self._journaled):
            with files.explained(self.path, sum(map(len, blobs.values())) + 1000):
                self._journal.append(kind, data, blobs)
            self._journaled = mark
        now, written = Mark.of(state), self._at[1]
        end = notebook.tail(state)
        begun = written.turns == 0 and now.turns > 0  # the first question takes the place of the only cells
        new = cells_since(state, written) if written.turns else []
        cells = b"".join(b",\n" + cell for cell in notebook.pack(new))
        with files.explained(self.path, len(cells) + len(end)):
            if not self._is_ours():
                self._go_on_elsewhere(state)
            elif begun:
                self._rewrite(state)
            else:
                self._append(cells, end, now)
        if Mark.of(state) != now:  # the event about the change of name
            self.sync(state)

    def close(self, state: State, *, keep: bool) -> None:
        """Make the notebook durable and, unless `keep`, remove the folder: the notebook stands alone."""
        whole = False
        try:
            self.sync(state)
            with files.explained(self.path, 0):
                file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fsync(file)
                finally:
                    os.close(file)
                files.sync_folder(self.path.parent)
                self._journal.append("close", {"steps": len(state.steps)})
            whole = self._is_ours() and bool(notebook.parse(self.path.read_bytes(), self.path.name))
        finally:
            self._journal.close()
            if whole and not keep:
                remove_folder(self._folder)
            self._lock.release()

    def _write(self, data: bytes, end: bytes, mark: Mark) -> None:
        files.write_atomically(self.path, data, self._folder / "notebook.tmp")
        self._at = (len(data) - len(end), mark)
        self._seen = _identity(self.path)

    def _rewrite(self, state: State) -> None:
        digest, since = self._base
        end = notebook.tail(state)
        base = read_blob(self._folder, digest) if since.turns else b""
        self._write(notebook.document(whole_cells(base, since, state), end), end, Mark.of(state))

    def _append(self, cells: bytes, end: bytes, mark: Mark) -> None:
        offset = self._at[0]
        file = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            files.splice(file, offset, os.fstat(file).st_size, cells + end)
        finally:
            os.close(file)
            self._seen = _identity(self.path)
        self._at = (offset + len(cells), mark)  # both at once: an interrupt in between would write cells twice

    def _is_ours(self) -> bool:
        try:
            return _identity(self.path) == self._seen
        except FileNotFoundError:
            return False

    def _go_on_elsewhere(self, state: State) -> None:
        """The notebook is not the one we wrote. An edit stays; the run goes on beside it (or anew, if it is gone)."""
        old = self.path
        reason = "it was removed"
        if old.exists():
            self.path, reason = files.free_name(old), "it was changed by another program"
        data = {"from": old.name, "to": self.path.name, "reason": reason}
        self._journal.append("path", data)
        try:
            self._rewrite(state)
        except BaseException:
            self.path = old
            raise
        state.events.append(Event(kind="notebook_moved", time=time.time(), data=data))


def remove_folder(folder: Path) -> None:
    """Remove journal and blobs, the journal last but the lock: a crash in between leaves no half of them."""
    (folder / NAME).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def beginning(path: Path, state: State) -> tuple[list[Json], Mark]:
    """The cells of `path`, and how much of this run they hold; nothing where it is no notebook of this run.

    StorageError where it holds another course of this run.
    """
    try:
        parsed = notebook.parse(read_file(path), str(path))
        there = notebook.read(parsed, str(path))
    except (OSError, TrajectoryError):
        return [], Mark()
    if there.run_id != state.run_id or not there.turns:
        return [], Mark()
    if there.steps != state.steps[: len(there.steps)] or len(there.turns) > len(state.turns):
        raise StorageError(
            f"{path} holds {len(there.steps)} steps of this run that took another course than the {len(state.steps)} in"
            " memory: load it again to continue it, or give another name"
        )
    return parsed["cells"], Mark.of(there)


def _open_folder(folder: Path, path: Path, force: bool) -> tuple[files.Lock, Path | None]:
    """The locked, empty folder; a crashed run's is moved aside (only with `force`)."""
    lock = files.Lock(folder, path)
    if not (folder / NAME).exists():
        return lock, None
    if not force:
        lock.release()
        raise StorageError(
            f"{folder} holds the journal of a run that did not end: codevision recover {path.name}, or move it aside with"
            " --force (force=True), or give another name"
        )
    number = 1
    while (aside := folder.with_name(f"{folder.stem}-{number}.codevision")).exists():
        number += 1
    folder.rename(aside)
    lock.release()
    return files.Lock(folder, path), aside


def _records(state: State, since: Mark) -> Iterator[Record]:
    """What is to be journaled after `since`."""
    mark = since
    for what, number in course(state, since):
        blobs: dict[str, bytes] = {}
        if what == "turn":
            turn = state.turns[number]
            data = {"number": number, "question": encode(turn.question), "started": turn.started}
            mark = replace(mark, turns=number + 1)
        elif what == "step":
            step = state.steps[number]
            data = {"number": number, **write_step(step, state.images)}
            for image in step.images:
                blobs |= dict(zip(state.images.hashes(image.index), (image.data, image.view), strict=True))
            mark = replace(mark, steps=number + 1)
        elif what == "end":
            turn = state.turns[number]
            ended = {"answer": encode(turn.answer), "stop_reason": encode(turn.stop_reason), "seconds": turn.seconds}
            data = {"number": number, **ended}
            mark = replace(mark, ends=number + 1)
        else:
            data = {"number": number, "event": encode(state.events[number])}
            mark = replace(mark, events=number + 1)
        yield what, data, blobs, mark


def _identity(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino


def whole_cells(base: bytes, since: Mark, state: State) -> list[bytes]:
    """All cells of a run: those of the notebook it began with, as they are, and what came after `since`.

    A base without a question is written anew, because the first question takes the place of its only cells.
    """
    kept = notebook.parse(base, "the notebook that recording began with")["cells"] if since.turns else []
    return notebook.pack([*kept, *cells_since(state, since if since.turns else Mark())])
