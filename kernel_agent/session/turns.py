"""A bounded number of slots, first come first served."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

from kernel_agent.errors import KernelError, PoolExhausted


class Turns:
    """Slots to take and to give back. Nobody overtakes; a wait that is cancelled or timed out costs no slot.

    Attributes:
        refused: how many got none, because the queue was full or their time in it was up.
    """

    def __init__(self, size: int, *, max_waiting: int | None, wait_seconds: float | None) -> None:
        self.size, self.max_waiting, self.wait_seconds = size, max_waiting, wait_seconds
        self.refused = 0
        self._taken = 0
        self._queue: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._queue)

    async def take(self) -> None:
        """Take a slot as soon as one is free. Raises PoolExhausted."""
        if self._taken < self.size and not self._queue:
            self._taken += 1
            return
        if self.max_waiting is not None and len(self._queue) >= self.max_waiting:
            self.refused += 1
            raise PoolExhausted(
                f"All {self.size} kernels are in use and {len(self._queue)} callers wait: max_waiting={self.max_waiting} "
                "allows no more. Ask again later, or make the pool larger."
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            async with asyncio.timeout(self.wait_seconds):
                await turn
        except (TimeoutError, asyncio.CancelledError) as stop:
            with contextlib.suppress(ValueError):
                self._queue.remove(turn)
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.give()  # it came in the same moment
            if isinstance(stop, TimeoutError):
                self.refused += 1
                raise PoolExhausted(
                    f"No kernel was free within wait_seconds={self.wait_seconds:g}: all {self.size} are in use. Close "
                    "sessions, wait longer, or make the pool larger."
                ) from None
            raise

    def give(self) -> None:
        """Give a slot back; it goes to whoever waits longest."""
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._taken -= 1

    def turn_away(self, why: str) -> None:
        """Let everybody who waits fail with a KernelError."""
        queue = list(self._queue)
        self._queue.clear()
        for turn in queue:
            if not turn.done():
                turn.set_exception(KernelError(why))
