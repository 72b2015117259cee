"""The sync twins of async methods: one background event loop for the whole process.

A coroutine runs there to its end while the caller waits, so the same code works in a script, in a thread and inside a
notebook whose own loop is busy. Ctrl-C cancels the coroutine, waits for its clean-up, then raises KeyboardInterrupt.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def background_loop() -> asyncio.AbstractEventLoop:
    """The loop, started on first use in a daemon thread."""
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="codevision", daemon=True).start()
        return _loop


def run_blocking(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run to the end and return the result; never call it from the background loop itself."""
    future: Future[T] = asyncio.run_coroutine_threadsafe(coroutine, background_loop())
    try:
        return future.result()
    except KeyboardInterrupt:
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        future.cancel()
        with contextlib.suppress(CancelledError):
            done.wait(30)
        raise
