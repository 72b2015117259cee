"""A limit on the memory of one kernel's process tree by a control group, version 1 or 2, where this process may make one.

Counts what no other way counts exactly: shared pages once, and files in tmpfs. A tree over the limit loses its largest process (version 1) or
all of them (version 2).
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_count = itertools.count()
_REMOVE_SECONDS = 1.0
_STALE_SECONDS = 60.0
_PREFIX = "codevision-"
_groups: set[MemoryGroup] = set()
"""Those of this process: removed at its end, whoever forgot them."""


@dataclass(frozen=True, kw_only=True)
class Hierarchy:
    """Where groups can be made, and the names of the files in them."""

    folder: Path
    limit: str
    events: str
    whole: str = ""


class MemoryGroup:
    """One group. Move the kernel in before it starts others; remove the group once they are gone."""

    def __init__(self, hierarchy: Hierarchy, memory_bytes: int) -> None:
        """Make it. Raises OSError."""
        self._hierarchy = hierarchy
        self.folder = hierarchy.folder / f"{_PREFIX}{os.getpid()}-{next(_count)}"
        self.folder.mkdir()
        try:
            (self.folder / hierarchy.limit).write_text(str(memory_bytes))
            if hierarchy.whole:
                (self.folder / hierarchy.whole).write_text("1")
        except OSError:
            self.folder.rmdir()
            raise
        self._owner = os.getpid()
        _groups.add(self)

    @classmethod
    def make(cls, memory_bytes: int) -> Self | None:
        """A group; None where this process may make none."""
        found = hierarchy()
        if found is None:
            return None
        try:
            return cls(found, memory_bytes)
        except OSError:
            return None

    def add(self, pid: int) -> None:
        """Move a process in, and what it starts from now on; what it already uses stays with its old group. Raises OSError."""
        (self.folder / "cgroup.procs").write_text(str(pid))

    def kills(self) -> int:
        """How many of its processes were killed for memory."""
        with contextlib.suppress(OSError):
            for line in (self.folder / self._hierarchy.events).read_text().splitlines():
                name, _, value = line.partition(" ")
                if name == "oom_kill":
                    return int(value)
        return 0

    def remove(self) -> None:
        """Kill what is in it, and remove it. Takes up to a second where a process is slow to die."""
        _groups.discard(self)
        if self._owner != os.getpid():  # a forked copy's
            return
        until = time.monotonic() + _REMOVE_SECONDS
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                for pid in (self.folder / "cgroup.procs").read_text().split():
                    os.kill(int(pid), 9)
            try:
                self.folder.rmdir()
                return
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.01)


@functools.cache
def hierarchy() -> Hierarchy | None:
    """Where a group can be made that really takes a limit: found by making one."""
    for found in _candidates():
        try:
            group = MemoryGroup(found, 1 << 30)
        except OSError:
            continue
        group.remove()
        _sweep(found.folder)
        return found
    return None


def _sweep(folder: Path) -> None:
    """Remove empty groups of processes that were killed (one with a process in it cannot be removed)."""
    for left in folder.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            dead = not Path(f"/proc/{int(left.name.split('-')[1])}").exists()
            if dead and time.time() - left.stat().st_mtime > _STALE_SECONDS:
                left.rmdir()


def _remove_all() -> None:
    for group in list(_groups):
        group.remove()


atexit.register(_remove_all)


def _candidates() -> list[Hierarchy]:
    """This process's own groups, by /proc/self/cgroup."""
    found = []
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                for root in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")):
                    folder = root / path.lstrip("/")
                    if (folder / "cgroup.procs").exists():
                        found.append(_version_2(folder))
            elif "memory" in controllers.split(","):
                folder = Path("/sys/fs/cgroup/memory") / path.lstrip("/")
                found.append(Hierarchy(folder=folder, limit="memory.limit_in_bytes", events="memory.oom_control"))
    return found


def _version_2(folder: Path) -> Hierarchy:
    return Hierarchy(folder=folder, limit="memory.max", events="memory.events", whole="memory.oom.group")
