"""The sync twins of async methods: one background event loop for the whole process, a new one in each fork of it.

A coroutine runs there to its end while the caller waits, so the same code works in a script, in a thread and inside a
notebook whose own loop is busy. Ctrl-C cancels the coroutine, waits for its clean-up, then raises KeyboardInterrupt.
"""

from __future__ import annotations

import asyncio
import functools
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future, wait
from typing import Any, TypeVar

T = TypeVar("T")

CLEAN_UP_SECONDS = 30.0
"""How long a Ctrl-C waits for the coroutine's clean-up; a second Ctrl-C does not wait."""

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def background_loop() -> asyncio.AbstractEventLoop:
    """The loop, started on first use in a daemon thread."""
    global _loop
    with _lock:
        if _loop is None:
            leave_room_in_environment()
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="codevision", daemon=True).start()
        return _loop


@functools.cache
def leave_room_in_environment() -> None:
    """Before the first thread of ours: leave a place for the variable that numpy and torch each set when imported.

    They are imported in one thread while a kernel starts in others. Before glibc 2.41 a new variable may move the whole
    table of variables from under a thread that reads it (to look up a user, say), and the process dies of SIGSEGV. A
    variable set and taken away again leaves its place behind, and the table stays where it is.
    """
    os.environ["CODEVISION_ROOM"] = ""
    del os.environ["CODEVISION_ROOM"]


def _forget() -> None:
    """In a fork: the loop's thread is not there, and whoever held the lock is not either."""
    global _lock, _loop
    _lock, _loop = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def run_blocking(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run to the end and return the result; never call it from the background loop itself."""
    loop = background_loop()
    result: Future[T] = Future()
    tasks: list[asyncio.Task[T]] = []

    def start() -> None:
        task = loop.create_task(coroutine)
        task.add_done_callback(finish)
        tasks.append(task)

    def finish(task: asyncio.Task[T]) -> None:
        error = CancelledError() if task.cancelled() else task.exception()
        if error is not None:
            result.set_exception(error)
        else:
            result.set_result(task.result())

    loop.call_soon_threadsafe(start)
    try:
        return result.result()
    except KeyboardInterrupt:
        loop.call_soon_threadsafe(lambda: tasks[0].cancel())
        wait([result], CLEAN_UP_SECONDS)
        raise
