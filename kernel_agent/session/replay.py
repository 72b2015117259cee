"""A session's state brought back in a new kernel: its cells are run again, its images put right.

Guarantees: afterwards the kernel holds the session's images, pixel for pixel, also where code run again made other ones
(event "replay_differs"). Does not guarantee that code run again does the same (time, random numbers), nor what a cell did
that was interrupted: such cells are left out, and listed by the event "cells_replayed".
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from kernel_agent.errors import KernelError
from kernel_agent.session.channel import KernelChannel
from kernel_agent.session.dialogue import KernelDied
from kernel_agent.session.outputs import OutputCollector
from kernel_agent.types import CellResult, Status

REPLAY_FACTOR = 3.0
"""How many times longer than at first the cells run again may take."""


def ended_by_itself(cell: CellResult) -> bool:
    """Whether a cell can be run again."""
    return cell.status in (Status.OK, Status.ERROR)


async def replay(
    channel: KernelChannel,
    cells: Sequence[CellResult],
    inputs: int,
    *,
    collector: Callable[[int], OutputCollector],
    call: Callable[..., Awaitable[None]],
    log: Callable[..., Any],
) -> None:
    """Run again every cell that ended by itself; give back the images of those that did not.

    Args:
        inputs: how many images the kernel holds.
        collector: makes one for a cell whose first image has that index.
        call: runs a function of `kernel_side` with images of these indexes.
        log: takes the kind and data of an event.

    Raises KernelError where a cell does not end again.
    """
    count = inputs
    for number, cell in enumerate(cells):
        indexes = [image.index for image in cell.images]
        if ended_by_itself(cell):
            again = collector(count)
            await _run_again(channel, number, cell, again)
            pairs = zip(cell.images, again.images, strict=False)
            differing = [old.name for old, new in pairs if old.pixel_sha256 != new.pixel_sha256]
            differs = bool(differing) or len(again.images) != len(cell.images)
            if differs:
                log("replay_differs", cell=number, images=differing, count=len(again.images))
            if differs or again.unsettled:
                await call("settle", indexes, first=count)
        else:
            if cell.images:
                await call("restore", indexes)
            if cell.execution_count is not None:
                await call("skip", [], count=cell.execution_count, source=cell.source)
        count += len(cell.images)
    left_out = [number for number, cell in enumerate(cells) if cell.status is Status.TIMEOUT]
    log("cells_replayed", count=sum(map(ended_by_itself, cells)), **({"interrupted": left_out} if left_out else {}))


async def _run_again(channel: KernelChannel, number: int, cell: CellResult, collector: OutputCollector) -> None:
    try:
        async with asyncio.timeout(10 + REPLAY_FACTOR * cell.seconds):
            await channel.execute(cell.source, collector)
    except (TimeoutError, KernelDied) as error:
        slow = f"it took {cell.seconds:.1f} s at first and {REPLAY_FACTOR:g} times that and 10 s now"
        raise KernelError(
            f"The kernel's state could not be brought back: cell {number} did not run again "
            f"({str(error) or slow}). Start a new session from the images."
        ) from error
