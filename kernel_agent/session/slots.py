"""Where a session's kernels come from: a slot gives one fresh kernel after the other.

Guarantees: every kernel has a private folder of its own, removed with it, so nothing that one wrote is there for the
next; a kernel is gone when `drop` or `close` returns, and goes just the same when the caller is cancelled meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Protocol

from kernel_agent.session.channel import KernelChannel
from kernel_agent.types import KernelOptions


class Slot(Protocol):
    """The right to run one kernel at a time."""

    async def kernel(self) -> KernelChannel:
        """A started kernel that ran nobody's code; the slot's last one must have been dropped. Raises KernelError."""
        ...

    async def drop(self) -> None:
        """Kill the slot's kernel, if there is one. Safe to call twice."""
        ...

    async def close(self) -> None:
        """Kill the kernel and give the slot back. Safe to call twice."""
        ...


class OwnSlot:
    """A slot that starts a kernel whenever it is asked for one."""

    def __init__(self, options: KernelOptions) -> None:
        self._options = options
        self._channel: KernelChannel | None = None

    async def kernel(self) -> KernelChannel:
        """As `Slot.kernel`."""
        self._channel = await open_kernel(self._options)
        return self._channel

    async def drop(self) -> None:
        """As `Slot.drop`."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await to_the_end(close_kernel(channel))

    async def close(self) -> None:
        """As `Slot.close`."""
        await self.drop()


async def open_kernel(options: KernelOptions) -> KernelChannel:
    """Start a kernel in a new folder. Raises KernelError; then, and when cancelled, neither is left."""
    folder = _short_folder()
    channel = KernelChannel(folder, options)
    try:
        await channel.start()
    except BaseException:
        await to_the_end(_remove(folder))
        raise
    return channel


async def close_kernel(channel: KernelChannel) -> None:
    """Kill a kernel and remove its folder."""
    try:
        await channel.stop()
    finally:
        await _remove(channel.folder)


async def _remove(folder: Path) -> None:
    await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)  # what the code wrote may be large


_working: set[asyncio.Task[None]] = set()


async def to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Wait for work that goes on when the wait is cancelled."""
    task = asyncio.create_task(work)
    _working.add(task)  # the loop itself holds tasks weakly
    task.add_done_callback(_working.discard)
    await asyncio.shield(task)


def _short_folder() -> Path:
    """A private folder whose path is short enough for Unix sockets (107 bytes)."""
    folder = Path(tempfile.mkdtemp(prefix="cv-"))
    if len(str(folder)) > 60:
        with contextlib.suppress(OSError):
            short = Path(tempfile.mkdtemp(prefix="cv-", dir="/tmp"))
            folder.rmdir()
            return short
    return folder
