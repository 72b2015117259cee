"""SIGTERM for a main program that runs kernels from a pool."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any

from kernel_agent.errors import KernelError

EXIT_SECONDS = 10.0
"""How long the program has to end after a drain."""


def on_sigterm(drain: Callable[[float], Coroutine[Any, Any, None]], seconds: float) -> None:
    """On SIGTERM: drain, then cancel the calling task; when that has ended, die of SIGTERM.

    The end comes within `seconds`, the time it takes to kill kernels, and `EXIT_SECONDS`. A second SIGTERM ends the wait
    for leases. Raises KernelError where the event loop takes no signals.
    """
    loop, main = asyncio.get_running_loop(), asyncio.current_task()
    tasks: list[asyncio.Task[None]] = []

    def die(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)

    async def end() -> None:
        try:
            await drain(seconds)
        finally:
            loop.call_later(EXIT_SECONDS, die)
            if main is None or main.done():
                die()
            else:
                main.add_done_callback(die)
                main.cancel()

    def terminated() -> None:
        tasks.append(loop.create_task(drain(0.0) if tasks else end()))

    try:
        loop.add_signal_handler(signal.SIGTERM, terminated)
    except (NotImplementedError, RuntimeError, ValueError) as error:
        raise KernelError(f"Only an event loop in the main thread takes SIGTERM: {error}.") from error
