"""One cell within its deadline: run, interrupted where it goes on, given up where it goes on all the same.

Guarantees: `run_cell` returns within the deadline plus `GRACE_SECONDS`, whatever the cell does and however often the caller
is cancelled; what was done is an event of the cell. Does not stop a kernel that has to go: the status KILLED says so.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any

from kernel_agent.session.channel import KernelChannel
from kernel_agent.session.dialogue import KernelDied
from kernel_agent.session.outputs import OutputCollector
from kernel_agent.types import Status
from kernel_agent.waiting import through_cancels

GRACE_SECONDS = 2.0
"""How long an interrupted cell has to end before the kernel is killed."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a cell ended. KILLED: the kernel is dead or has to be killed. `cancelled`: the caller was, and is to raise it."""

    status: Status
    execution_count: int | None = None
    cancelled: bool = False


async def run_cell(channel: KernelChannel, source: str, collector: OutputCollector, seconds: float) -> Ended:
    """Run a cell for at most so many seconds; a cancel interrupts it as the deadline does."""
    running = asyncio.ensure_future(channel.execute(source, collector))
    running.add_done_callback(lambda done: done.cancelled() or done.exception())  # it may end when nobody waits
    try:
        async with asyncio.timeout(seconds):
            content = (await asyncio.shield(running))["content"]
        status = Status.ERROR if content.get("status") != "ok" or collector.failed else Status.OK
        return Ended(status=status, execution_count=content.get("execution_count"))
    except (TimeoutError, asyncio.CancelledError) as stop:
        cancelled = isinstance(stop, asyncio.CancelledError)
        collector.event("interrupted", why="cancelled" if cancelled else "timeout", after=round(seconds, 3))
        stopping = asyncio.ensure_future(_stop(channel, running, collector))
        cancelled = await through_cancels(stopping) or cancelled
        status = stopping.result()
        count = running.result()["content"].get("execution_count") if status is Status.TIMEOUT else None
        return Ended(status=status, execution_count=count, cancelled=cancelled)
    except KernelDied as died:
        collector.event("kernel_died", **died.facts)
        return Ended(status=Status.KILLED)


async def _stop(channel: KernelChannel, running: asyncio.Future[Any], collector: OutputCollector) -> Status:
    """SIGINT, more of them where the cell goes on. TIMEOUT where it ended, KILLED where the kernel has to go.

    One alone may be lost: just before the code begins, or in a callback of the garbage collector.
    """
    try:
        async with asyncio.timeout(GRACE_SECONDS):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(collector.begun.wait(), GRACE_SECONDS / 4)
            await channel.interrupt()
            for part in (1 / 2, 1 / 4):
                if (await asyncio.wait([running], timeout=GRACE_SECONDS * part))[0]:
                    break
                collector.event("interrupted_again")
                await channel.interrupt()
            await asyncio.shield(running)
    except TimeoutError:
        collector.event("kernel_killed", why=f"the cell did not end within {GRACE_SECONDS} s of the interrupt")
        return Status.KILLED
    except KernelDied as died:
        collector.event("kernel_died", **died.facts)
        return Status.KILLED
    return Status.TIMEOUT
