"""What SIGINT does to a cell; runs inside the kernel.

ipykernel raises KeyboardInterrupt wherever the main thread is. Between two lines of its own that may end the cell without a
reply, or leave half a hook done. While a cell awaits something it means to cancel the cell's task instead, but asks for
that in a way that does not wake the event loop, so that a stuck `await` goes on [ipykernel 6.31 and 7.4, tornado 6.5].

Guarantees, in the main thread: KeyboardInterrupt is raised where code of the cell is running or has called what is
running, and nowhere else (before and after the code, the signal does nothing: whoever sent it asks again). Where a cell
only awaits, its task is cancelled: CancelledError. Where a task or callback it started is running, CancelledError is
raised there and the cell is cancelled too. Not covered: code that swallows these exceptions, cells of subshells.
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
    """Take the place of ipykernel's handlers; `cancelled` is called when a cell's task is cancelled.

    Where this ipykernel lacks the places for that, its own stay: then a stuck `await` costs the kernel.
    """
    if not hasattr(kernel, "_cancel_on_sigint") or not hasattr(kernel, "pre_handler_hook"):
        return

    def within_cell(frame: FrameType | None) -> bool:
        names = kernel.shell.user_global_ns
        return _on_stack(frame, lambda one: one.f_globals is names)

    def interrupt_code(number: int, frame: FrameType | None) -> None:
        if within_cell(frame):
            signal.default_int_handler(number, frame)

    def before_request() -> None:
        kernel.saved_sigint_handler = signal.signal(signal.SIGINT, interrupt_code)  # `post_handler_hook` puts it back

    @contextlib.contextmanager
    def cancel_on_sigint(cell: asyncio.Task[Any]) -> Iterator[None]:
        loop = cell.get_loop()
        owner = asyncio.current_task()  # waits for the cell and ends its request

        def cancel() -> None:
            if cell.cancel("the cell was interrupted"):
                cancelled()

        def interrupt(number: int, frame: FrameType | None) -> None:
            running = asyncio.current_task(loop)
            if running is not None and running in (cell, owner):
                if within_cell(frame):
                    signal.default_int_handler(number, frame)
                return
            loop.call_soon_threadsafe(cancel)
            if running is not None or _on_stack(frame, lambda one: one.f_code is _CALLBACK):
                raise asyncio.CancelledError

        before = signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    kernel.pre_handler_hook = before_request
    kernel._cancel_on_sigint = cancel_on_sigint


def _on_stack(frame: FrameType | None, wanted: Callable[[FrameType], bool]) -> bool:
    while frame is not None:
        if wanted(frame):
            return True
        frame = frame.f_back
    return False
