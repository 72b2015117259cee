"""Which warm parent serves a kernel: one for each interpreter and environment, in this process.

The first kernel never waits: it starts the ordinary way, and its parent is warmed up `WARM_AFTER` seconds later, or as soon
as a second kernel is asked for. That one waits for the parent, as do those after it (about as long as an ordinary
start takes), so a hundred kernels at once cost one ordinary start and 99 forks. A parent that died is replaced in the
same way; after `MAX_FAILURES` parents in a row that never got ready, kernels of that environment start the ordinary way.
So they do while a parent does not answer, or one cannot be started for want of memory, descriptors or processes.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

from kernel_agent.provisioners.zygote.parent import WarmParent

WARM_AFTER = 1.0
MAX_FAILURES = 3
MAX_PARENTS = 4
"""Parents in one process; an idle one makes room, and where all are busy kernels start the ordinary way."""
_OF_ONE_KERNEL = ("IPYTHONDIR", "JPY_PARENT_PID", "JPY_SESSION_NAME")


@dataclass(frozen=True)
class Warmth:
    """What a parent is made for: the interpreter with its flags, and the environment without what is one kernel's."""

    interpreter: tuple[str, ...]
    env: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, interpreter: tuple[str, ...], env: Mapping[str, str]) -> Warmth:
        """The parent for a kernel with this environment."""
        kept = {name: value for name, value in env.items() if name not in _OF_ONE_KERNEL}
        kept.setdefault("OPENBLAS_NUM_THREADS", "1")  # its threads would not survive a fork
        return cls(interpreter, tuple(sorted(kept.items())))


@dataclass(frozen=True, kw_only=True)
class Report:
    """Whether kernels are forked here, and why or why not."""

    forks: bool
    detail: str


@dataclass(eq=False)
class _Slot:
    asked: int = 0
    failures: int = 0
    parent: WarmParent | None = None
    why: str = ""
    lock: threading.RLock = field(default_factory=threading.RLock)


_slots: dict[Warmth, _Slot] = {}
_lock = threading.Lock()


def unsupported() -> str:
    """Why this system cannot fork kernels; empty where it can."""
    if sys.platform != "linux":
        return f"forked kernels are for Linux; this is {sys.platform}"
    return ""


def ask(warmth: Warmth) -> Future[WarmParent] | str:
    """A parent, ready or warming up; or why this kernel is to start the ordinary way."""
    if why := unsupported():
        return why
    with _lock:
        slot = _slots.get(warmth)
        if slot is None:
            if not _make_room():
                return f"{MAX_PARENTS} fork servers for other environments are in use"
            slot = _slots[warmth] = _Slot()
    with slot.lock:
        if slot.parent is not None and slot.parent.alive:
            return "the fork server does not answer" if slot.parent.late else slot.parent.ready
        if slot.failures >= MAX_FAILURES:
            return slot.why
        if slot.parent is not None:
            slot.parent, slot.asked = None, 0
        slot.asked += 1
        if slot.asked == 1:
            timer = threading.Timer(WARM_AFTER, _warm, (warmth, slot))
            timer.daemon = True
            timer.start()
            last = f" (the last one: {slot.why})" if slot.why else ""
            return f"the fork server is not warm yet: it is started after the first kernel{last}"
        return _warm(warmth, slot) or slot.why or "its fork server was given up for another environment's"


def _make_room() -> bool:
    """Whether another parent may be made; lets an idle one go where there are enough."""
    if len(_slots) < MAX_PARENTS:
        return True
    for warmth, slot in list(_slots.items()):
        with slot.lock:
            if slot.parent is None or not slot.parent.alive or not slot.parent.busy:
                if slot.parent is not None:
                    slot.parent.close()
                del _slots[warmth]
                return True
    return False


def _warm(warmth: Warmth, slot: _Slot) -> Future[WarmParent] | None:
    with slot.lock:
        if slot.parent is not None and slot.parent.alive:
            return slot.parent.ready
        if _slots.get(warmth) is not slot:  # let go in the meantime
            return None
        try:
            slot.parent = WarmParent(warmth.interpreter, dict(warmth.env))
        except (OSError, RuntimeError) as error:  # RuntimeError: no more threads
            slot.why = f"the fork server could not be started: {error}"
            if isinstance(error, (FileNotFoundError, PermissionError)):  # all others may pass
                slot.failures = MAX_FAILURES
            return None

        def note(ready: Future[WarmParent]) -> None:
            error = ready.exception()
            with slot.lock:
                slot.failures = slot.failures + 1 if error is not None else 0
                slot.why = str(error or "")

        slot.parent.ready.add_done_callback(note)
        return slot.parent.ready


def report() -> Report:
    """For `codevision doctor`: whether this process forks its kernels. Starts nothing."""
    if why := unsupported():
        return Report(forks=False, detail=f"{why}: kernels start one by one, with the same behaviour")
    failures = [slot.why for slot in [*_slots.values()] if slot.why]
    if failures:
        return Report(forks=False, detail=f"{failures[0]}: kernels start one by one, with the same behaviour")
    warm = sum(bool(slot.parent and slot.parent.alive and slot.parent.ready.done()) for slot in [*_slots.values()])
    said = f"{warm} warm" if warm else "started with the first kernel"
    return Report(forks=True, detail=f"fork server: {said}")


def close_parents() -> None:
    """End every parent of this process, and with them the kernels they forked; the next kernel starts afresh."""
    with _lock:
        slots = list(_slots.values())
        _slots.clear()
    for slot in slots:
        with slot.lock:
            if slot.parent is not None:
                slot.parent.close()


def _after_fork() -> None:
    """A forked copy of the host has no parents: theirs must notice when the original is gone."""
    global _lock
    _lock = threading.Lock()
    for slot in _slots.values():
        if slot.parent is not None:
            slot.parent.forget()
    _slots.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
