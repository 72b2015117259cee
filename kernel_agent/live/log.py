"""The events of one run, numbered, for any number of readers in any thread: who comes late or comes back misses nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from kernel_agent.types import Json

Entry = Mapping[str, Json]


class EventLog:
    """Events with `seq` 0, 1, 2, ..., `time` (seconds since the epoch) and `type`.

    All are kept but one kind: of what the model has written of a step ("writing"), late readers get one event with the text so
    far (under the last number), and nothing once the step's message is complete. So a reader may see numbers skipped, never
    one twice, and never a smaller one after a larger.
    """

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._open: Entry | None = None  # what has been written of the step that is being written
        self._next = 0
        self._readers: list[Callable[[Entry], None]] = []
        self._lock = threading.Lock()

    @property
    def last(self) -> int:
        """The highest number given; -1 before the first."""
        return self._next - 1

    def append(self, type: str, /, **data: Json) -> None:
        """Add an event and tell the readers, in this thread."""
        with self._lock:
            entry: Entry = {"seq": self._next, "time": time.time(), "type": type, **data}
            self._next += 1
            if type == "writing":
                before = self._open["text"] if self._open and self._open["step"] == data["step"] else ""
                self._open = {**entry, "text": before + data["text"], "whole": True}
            else:
                self._open = None if type in ("action", "step", "answer") else self._open
                self._entries.append(entry)
            for reader in self._readers:
                reader(entry)

    def after(self, seq: int) -> list[Entry]:
        """The events after number `seq`; -1 for all."""
        with self._lock:
            return self._after(seq)

    def follow(self, reader: Callable[[Entry], None], *, after: int = -1) -> Callable[[], None]:
        """Give `reader` what there is after `after` at once, then each event as it comes; returns how to stop that.

        The reader is called in the thread of whoever appends, under the log's lock: it must be quick and must not raise.
        A client that had part of a text that is still being written gets the whole text again: `"whole": true` says so.
        """
        with self._lock:
            for entry in self._after(after):
                reader(entry)
            self._readers.append(reader)

        def stop() -> None:
            with self._lock:
                if reader in self._readers:
                    self._readers.remove(reader)

        return stop

    def _after(self, seq: int) -> list[Entry]:
        entries = [*self._entries, self._open] if self._open else self._entries
        return sorted((entry for entry in entries if entry["seq"] > seq), key=lambda entry: int(entry["seq"]))
