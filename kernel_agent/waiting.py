"""Waits that asyncio has not: for work that must come to its end, whoever gives up or fails meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any


async def end(*work: asyncio.Future[Any]) -> None:
    """Cancel what still runs, and wait until all has ended, however it did."""
    for one in work:
        one.cancel()
    await asyncio.gather(*work, return_exceptions=True)


async def all_of(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run all at once. The first failure is raised, and so is a cancel, when the others have been cancelled and have ended."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        await end(*tasks)


async def through_cancels(work: asyncio.Future[Any]) -> bool:
    """Wait for work that is short and must end; returns whether somebody cancelled the wait meanwhile."""
    cancelled = False
    while not work.done():
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            cancelled = True
    return cancelled


_working: set[asyncio.Task[None]] = set()


async def to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Wait for work that goes on when the wait is cancelled."""
    task = asyncio.create_task(work)
    _working.add(task)  # the loop itself holds tasks weakly
    task.add_done_callback(_working.discard)
    await asyncio.shield(task)
