"""A cap on what a kernel and all that it started use together: memory and number of processes.

A control group where this process may make one, and a watchdog in every case: one thread for all kernels of this process, which
looks often at those that do something and once a second at the others. Over the cap, the kernel is killed, and
`MemoryCap.reason` says why. The cap is for a tree: within one process, the limit on address space (`limits`) comes first and is a
MemoryError.

Not guaranteed: between two looks (`BUSY_SECONDS`; `IDLE_SECONDS` for a kernel that begins to work without `wake`) a process can
take more than the cap, as fast as the machine gives out pages. Files in a tmpfs count in a control group only (their own size is
limited). A process that left both the tree and the group of a MEDIUM kernel is not counted.
Memory of the fork server that kernels share is divided among them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from kernel_agent.provisioners.sandbox.cgroup import MemoryGroup
from kernel_agent.provisioners.sandbox.processes import activity, groups, proportional, resident, tree

BUSY_SECONDS = 0.05
IDLE_SECONDS = 1.0
AWAKE_SECONDS = 2.0
_MIB = 1 << 20
OWN_BYTES = 128 * _MIB
"""What the interpreter and its libraries use themselves: on top of what the code may use, or a process that is about to get its
MemoryError would be killed instead."""


class MemoryCap:
    """The cap of one kernel.

    Attributes:
        reason: why the kernel was killed; "" if not, or not by this.
    """

    def __init__(
        self,
        pid: int,
        memory_bytes: int,
        processes: int,
        *,
        group: int | None = None,
        killed: Callable[[str], object] | None = None,
    ) -> None:
        """Args:
        pid: the kernel's process, as this process sees it (the outermost of bubblewrap, the one between of a plain start).
        memory_bytes: of the whole tree, besides `OWN_BYTES`.
        processes: of the whole tree; more, and it is killed too.
        group: the kernel's process group, if its processes are also to be found by that (MEDIUM).
        killed: called with the reason, from the watchdog's thread, after the kill.
        """
        self.pid, self.memory_bytes, self.processes, self.group = pid, memory_bytes, processes, group
        self.reason = ""
        self._killed = killed
        self._cgroup: MemoryGroup | None = None
        self._grouping: Future[None] | None = None
        self._family: list[int] = []
        self._seen: list[tuple[str, ...] | None] = []
        self._awake_until = 0.0
        self.due = 0.0

    def start(self) -> None:
        """Begin, once the kernel's process exists.

        The watchdog at once; the control group from another thread, since Linux takes 15 ms and more to move a process.
        """
        _watch.add(self)
        self._grouping = _groups.submit(self._join_group)

    def _join_group(self) -> None:
        self._cgroup = MemoryGroup.make(self.memory_bytes + OWN_BYTES)
        if self._cgroup is not None:
            with contextlib.suppress(OSError):
                for pid in tree(self.pid):
                    self._cgroup.add(pid)

    def explain(self) -> str:
        """`reason`, after asking the control group."""
        if not self.reason and self._cgroup is not None and self._cgroup.kills():
            self.reason = self._words(self.memory_bytes + OWN_BYTES)
        return self.reason

    def stop(self) -> None:
        """End, once the kernel is gone. Safe to call twice. Whatever is left in its control group is killed."""
        _watch.remove(self)
        if self._grouping is not None and not self._grouping.cancel():
            self._grouping.result()
        if self._cgroup is not None:
            self.explain()
            self._cgroup.remove()
            self._cgroup = None

    def look(self, members: Callable[[], dict[int, set[int]]]) -> float:
        """Look once, and kill if there is cause. Returns seconds until the next look. `members`: all process groups."""
        pause = BUSY_SECONDS if time.monotonic() < self._awake_until else IDLE_SECONDS
        if self._family and [activity(pid) for pid in self._family] == self._seen:
            return pause
        family = tree(self.pid)
        if self.group is not None:
            family |= members().get(self.group, set())
        self._family = sorted(family)
        self._seen = [activity(pid) for pid in self._family]  # before the sizes: a later change leads to another look
        used = resident(family)
        if used > self.memory_bytes + OWN_BYTES:
            used = proportional(family)
        if used > self.memory_bytes + OWN_BYTES:
            self._kill(family, self._words(used))
        elif len(family) > self.processes:
            self._kill(family, f"processes: {len(family)} of {self.processes}")
        return BUSY_SECONDS

    def wake(self) -> None:
        """A cell is about to run: look often for a while, though nothing seems to happen."""
        self._awake_until = time.monotonic() + AWAKE_SECONDS
        self.due = 0.0
        _watch.wake()

    def _words(self, used: int) -> str:
        own = f"{OWN_BYTES / _MIB:.0f} MB for Python itself"
        return f"memory: used {used / _MIB:.0f} of {self.memory_bytes / _MIB:.0f} MB (and {own})"

    def _kill(self, family: set[int], reason: str) -> None:
        self.reason = reason
        if self.group is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.group, signal.SIGKILL)
        for pid in family:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if self._killed is not None:
            self._killed(reason)


class _Watch:
    """The thread that looks. It ends when there is nothing to look at."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._caps: set[MemoryCap] = set()
        self._running = False

    def add(self, cap: MemoryCap) -> None:
        with self._changed:
            self._caps.add(cap)
            if not self._running:
                threading.Thread(target=self._serve, name="codevision-memory", daemon=True).start()
                self._running = True
            self._changed.notify()

    def remove(self, cap: MemoryCap) -> None:
        with self._changed:
            self._caps.discard(cap)
            self._changed.notify()

    def wake(self) -> None:
        with self._changed:
            self._changed.notify()

    def _serve(self) -> None:
        while True:
            with self._changed:
                if not self._caps:
                    self._running = False
                    return
                now = time.monotonic()
                due = [cap for cap in self._caps if cap.due <= now]
                if not due:
                    self._changed.wait(min(cap.due for cap in self._caps) - now)
                    continue
            found: list[dict[int, set[int]]] = []

            def members(found: list[dict[int, set[int]]] = found) -> dict[int, set[int]]:
                if not found:
                    found.append(groups())
                return found[0]

            for cap in due:
                try:
                    pause = cap.look(members)
                except OSError:  # short of descriptors or memory, for a moment: it must not be the last look
                    pause = BUSY_SECONDS
                cap.due = time.monotonic() + pause
                if cap.reason or not _exists(cap.pid):
                    with self._changed:
                        self._caps.discard(cap)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


_watch = _Watch()
_groups = ThreadPoolExecutor(1, "codevision-groups")


def _after_fork() -> None:
    global _watch, _groups
    _watch, _groups = _Watch(), ThreadPoolExecutor(1, "codevision-groups")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
