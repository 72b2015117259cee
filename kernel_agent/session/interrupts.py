"""What SIGINT does to a cell that is awaiting something; runs inside the kernel.

ipykernel means to cancel the cell's task, but its handler asks for that in a way that does not wake the event loop: a
stuck `await` goes on until something else happens [ipykernel 6.31 and 7.4 with tornado 6.5]. It also only asks where the
cell's own code is running between two awaits, so `while True: pass` after an `await` never ends.

Guarantees, for a cell with a top-level `await` in the main thread: where nothing runs, its task is cancelled
(CancelledError where it awaits); where its own code runs, KeyboardInterrupt is raised there, as in any other cell; where
a task or callback it started runs, CancelledError is raised in that one and the cell is cancelled too. Not
covered: code that swallows those exceptions, and cells of subshells.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from asyncio.events import Handle
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

_CALLBACK = Handle._run.__code__  # what every task and callback runs under


def install(kernel: Any, cancelled: Callable[[], None]) -> None:
    """Take the place of ipykernel's handler; `cancelled` is called when a cell's task is cancelled.

    Does nothing where this ipykernel has no such handler: then a stuck `await` costs the kernel.
    """
    if not hasattr(kernel, "_cancel_on_sigint"):
        return

    @contextlib.contextmanager
    def cancel_on_sigint(cell: asyncio.Task[Any]) -> Iterator[None]:
        loop = cell.get_loop()
        catching = (cell, asyncio.current_task())  # the other one shows what the cell left when that is done

        def cancel() -> None:
            if cell.cancel("the cell was interrupted"):
                cancelled()

        def interrupt(number: int, frame: FrameType | None) -> None:
            running = asyncio.current_task(loop)
            if running is not None and running in catching:
                signal.default_int_handler(number, frame)
            loop.call_soon_threadsafe(cancel)
            if running is not None or _in_callback(frame):
                raise asyncio.CancelledError

        before = signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    kernel._cancel_on_sigint = cancel_on_sigint


def _in_callback(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code is _CALLBACK:
            return True
        frame = frame.f_back
    return False
