"""Where a session's kernels come from: a slot gives one fresh kernel after the other.

Guarantees: a kernel is gone when `drop` or `close` returns, and goes just the same when the caller is cancelled meanwhile.
"""

from __future__ import annotations

from typing import Protocol

from kernel_agent.session.channel import KernelChannel
from kernel_agent.types import KernelOptions
from kernel_agent.waiting import to_the_end


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
            await to_the_end(channel.stop())

    async def close(self) -> None:
        """As `Slot.close`."""
        await self.drop()


async def open_kernel(options: KernelOptions) -> KernelChannel:
    """Start a kernel. Raises KernelError; then, and when cancelled, nothing of it is left."""
    channel = KernelChannel(options)
    await channel.start()
    return channel
