"""The append-only journal of a run and its content-addressed blobs.

`journal.jsonl` has one JSON object a line: {seq, prev_sha256, type, time, data}; `prev_sha256` is the SHA-256 of the line
before (without its newline), so that nothing in the middle can be changed unnoticed. A record is on the disk (fsync)
when `append` returns, and so is every blob it names. What a crash or a full disk leaves of a line is cut off again.
The types are "base" (the whole notebook when recording began, as a blob), "turn", "step", "end", "event", "path" (the
notebook goes on under another name) and "close".
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson

from kernel_agent.errors import TrajectoryError
from kernel_agent.trajectory.reading import MAX_BYTES, MAX_VALUES, check_size, read_file
from kernel_agent.types import Json

START = "0" * 64
NAME = "journal.jsonl"
_FIELDS = {"seq", "prev_sha256", "type", "time", "data"}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One record of a journal."""

    seq: int
    type: str
    time: float
    data: Json


class Journal:
    """Appends to the journal in `folder`. Not for two writers: the store holds the lock."""

    def __init__(self, folder: Path) -> None:
        self._blobs = folder / "blobs"
        self._blobs.mkdir(exist_ok=True)
        self._known: set[str] = set()
        self._file = os.open(folder / NAME, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        self._end = (os.fstat(self._file).st_size, 0, START)  # size, next number, hash of the last line

    def append(self, kind: str, data: Json, blobs: Mapping[str, bytes] | None = None) -> None:
        """Write a record and the blobs it names (by SHA-256), and wait until both are on the disk."""
        for digest, blob in (blobs or {}).items():
            self._write_blob(digest, blob)
        size, seq, previous = self._end
        if os.fstat(self._file).st_size != size:
            os.ftruncate(self._file, size)  # an interrupt came right after the write
        entry = {"seq": seq, "prev_sha256": previous, "type": kind, "time": time.time(), "data": data}
        line = orjson.dumps(entry)
        try:
            write_all(self._file, line + b"\n")
            os.fsync(self._file)
        except BaseException:
            os.ftruncate(self._file, size)
            raise
        self._end = (size + len(line) + 1, seq + 1, hashlib.sha256(line).hexdigest())

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _write_blob(self, digest: str, blob: bytes) -> None:
        if digest in self._known:
            return
        path = self._blobs / digest
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            write_all(file, blob)
            os.fsync(file)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(file)
        self._known.add(digest)


def write_all(file: int, data: bytes, offset: int | None = None) -> None:
    """Write all of `data`, at `offset` where given."""
    view = memoryview(data)
    while view:
        count = os.write(file, view) if offset is None else os.pwrite(file, view, offset)
        view = view[count:]
        offset = None if offset is None else offset + count


def read_journal(folder: Path, most: int = MAX_VALUES) -> tuple[list[Entry], bool]:
    """The entries of a journal, and whether a torn one at its end was left out.

    TrajectoryError where an entry in the middle is damaged or the chain of hashes is broken.
    """
    path = folder / NAME
    try:
        data = read_file(path) if path.exists() else b""
    except OSError as error:
        raise TrajectoryError(f"{path.name} cannot be read: {error.strerror}") from error
    check_size(data, path.name, most)
    *lines, rest = data.split(b"\n")
    entries: list[Entry] = []
    previous = START
    for number, line in enumerate(lines):
        try:
            record = orjson.loads(line)
            if record.keys() != _FIELDS or record["seq"] != number:
                raise TrajectoryError(f"{path.name}: line {number + 1} is no record with the number {number}")
        except (orjson.JSONDecodeError, AttributeError) as error:
            raise TrajectoryError(f"{path.name}: line {number + 1} of {len(lines)} is damaged: {error}") from error
        if record["prev_sha256"] != previous:
            raise TrajectoryError(
                f"{path.name}: line {number + 1} does not follow line {number}: the journal was changed"
            )
        previous = hashlib.sha256(line).hexdigest()
        entries.append(Entry(seq=number, type=record["type"], time=record["time"], data=record["data"]))
    return entries, bool(rest)


def read_blob(folder: Path, digest: str, most: int = MAX_BYTES) -> bytes:
    """A blob of at most `most` bytes, checked against its hash."""
    if len(digest) != 64 or not digest.isalnum():
        raise TrajectoryError(f"the journal names the blob {digest!r:.80}, which is no SHA-256")
    try:
        blob = read_file(folder / "blobs" / digest, most)
    except OSError as error:
        raise TrajectoryError(f"the journal names the blob {digest}, which cannot be read: {error.strerror}") from error
    if hashlib.sha256(blob).hexdigest() != digest:
        raise TrajectoryError(f"the blob {digest} is damaged: its content has another hash")
    return blob
