"""What a channel knows of its kernel's process beside its messages: that it ended, and its last words.

Guarantees: `Watch` calls back within milliseconds of the end where the system has pidfds (Linux 5.3), else within
`POLL_SECONDS`; it never takes another process that got the same id for the kernel (pidfds only). `LastWords` holds a
few KiB however much is written, takes at most 32 MB/s, and makes who writes more wait. Both belong to the event loop
they were made in.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable

POLL_SECONDS = 0.25
_CHUNK = 1 << 16
_PAUSE_SECONDS = 0.002


class Watch:
    """Calls `on_end` once when a process ends.

    Args:
        pid: the process; None where its id is not known.
        is_alive: asked every `POLL_SECONDS` where there is no pidfd.
    """

    def __init__(self, pid: int | None, on_end: Callable[[], None], is_alive: Callable[[], Awaitable[bool]]) -> None:
        self.pid = pid
        self._on_end, self._is_alive = on_end, is_alive
        self._loop = asyncio.get_running_loop()
        self._descriptor: int | None = None
        self._task: asyncio.Task[None] | None = None
        if pid is not None and hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):
                self._descriptor = os.pidfd_open(pid)
        if self._descriptor is not None:
            try:
                self._loop.add_reader(self._descriptor, self._ended)
                return
            except NotImplementedError:  # a loop that watches no descriptors
                self._close_descriptor()
        self._task = self._loop.create_task(self._poll())

    def _ended(self) -> None:
        self._loop.remove_reader(self._descriptor or 0)
        self._on_end()

    async def _poll(self) -> None:
        while await self._is_alive():  # noqa: ASYNC110 (a process has no event to await)
            await asyncio.sleep(POLL_SECONDS)
        self._on_end()

    def send_signal(self, number: signal.Signals) -> bool:
        """Send a signal to the process alone; False where it is gone or unknown."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self._descriptor is not None:
                signal.pidfd_send_signal(self._descriptor, number)
            elif self.pid is not None:
                os.kill(self.pid, number)
            else:
                return False
            return True
        return False

    def close(self) -> None:
        """Watch no longer. Safe to call twice, and after the loop was closed."""
        if self._task is not None and not self._loop.is_closed():
            self._task.cancel()
        if self._descriptor is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.remove_reader(self._descriptor)
            self._close_descriptor()

    def _close_descriptor(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None


class LastWords:
    """The end of what a process writes to a pipe. `writer` is for the process; close it here once it has it."""

    def __init__(self, size: int = 4096) -> None:
        self.size = size
        self._loop = asyncio.get_running_loop()
        self._reader, self.writer = os.pipe()
        os.set_blocking(self._reader, False)
        self._tail = b""
        self._open = True
        try:
            self._listen()
        except NotImplementedError:  # a loop that watches no descriptors: nothing is heard
            self.close()
            self.writer = os.open(os.devnull, os.O_WRONLY)

    def _listen(self) -> None:
        if self._open:
            self._loop.add_reader(self._reader, self._read)

    def _read(self) -> None:
        count = self._take()
        if count in (0, _CHUNK):  # closed at the other end, or a flood: let it fill the pipe while we do other things
            self._loop.remove_reader(self._reader)
        if count == _CHUNK:
            self._loop.call_later(_PAUSE_SECONDS, self._listen)

    def _take(self) -> int:
        """Read once; how many bytes it were, -1 for nothing yet."""
        try:
            data = os.read(self._reader, _CHUNK)
        except BlockingIOError:
            return -1
        self._tail = (self._tail + data)[-self.size :]
        return len(data)

    def __str__(self) -> str:
        if self._open:
            self._take()  # a pipe holds no more than this
        return self._tail.decode(errors="replace").strip()

    def close_writer(self) -> None:
        """Close our copy of the writing end."""
        if self.writer >= 0:
            os.close(self.writer)
        self.writer = -1

    def close(self) -> None:
        """Listen no longer; what was heard stays. Safe to call twice, and after the loop was closed."""
        self.close_writer()
        if self._open:
            self._take()
            self._open = False
            with contextlib.suppress(RuntimeError, NotImplementedError):  # a loop closed, or one that never listened
                self._loop.remove_reader(self._reader)
            os.close(self._reader)
