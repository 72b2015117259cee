"""Kernels for hundreds of sessions from one event loop, a bounded number at a time.

    async with KernelPool(32, warm=4) as pool:
        agent = Agent(model, pool=pool)
        await asyncio.gather(*(agent.arun(task) for task in tasks))

Guarantees: at most `size` sessions hold a kernel and at most `warm` more idle ones are kept ready, so there are never more
than `size + warm`. A kernel serves one session and is killed when that ends; none is used twice, and each has a
folder of its own. Who finds no slot free waits, first come first served; a wait that is cancelled or timed out costs no
slot. An idle kernel that died, or does not answer, is replaced, not leased. When the driver is killed, its kernels end
as those of any session do.

Limits: a pool belongs to the event loop that uses it first (without `async`, that of `kernel_agent.blocking`); a session
must be closed, or it keeps its slot; isolation is that of the kernels.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import deque
from typing import Self

from kernel_agent.blocking import run_blocking
from kernel_agent.errors import KernelError
from kernel_agent.session.channel import KernelChannel, KernelDied
from kernel_agent.session.descriptors import make_room
from kernel_agent.session.pool_metrics import Durations, PoolMetrics
from kernel_agent.session.pool_signals import on_sigterm
from kernel_agent.session.slots import open_kernel
from kernel_agent.session.turns import Turns
from kernel_agent.types import KernelOptions
from kernel_agent.waiting import end, to_the_end

CHECK_SECONDS = 1.0
"""How often warm kernels are looked at; one of them is asked for an answer each time."""
ANSWER_SECONDS = 5.0
"""How long a warm kernel may take to answer."""
MAX_DELAY_SECONDS = 30.0
"""Longest pause after failed starts of warm kernels (it doubles from 0.5 s)."""


class KernelPool:
    """A bounded number of kernels, some of them started ahead.

    Args:
        size: most sessions with a kernel at the same time.
        kernel: how kernels come to life.
        warm: idle kernels kept ready beside; None for a quarter of `size`, at most 8.
        max_waiting: most callers in the queue; more are refused with PoolExhausted. None for any number.
        wait_seconds: longest wait in the queue, then PoolExhausted. None to wait for ever.

    Raises KernelError where so many kernels do not fit into the limit of file descriptors, whose soft part is raised to
    its hard one if need be.
    """

    def __init__(
        self,
        size: int,
        *,
        kernel: KernelOptions = KernelOptions(),
        warm: int | None = None,
        max_waiting: int | None = None,
        wait_seconds: float | None = None,
    ) -> None:
        if size < 1 or (warm or 0) < 0:
            raise KernelError(
                f"A pool of {size} kernels, {warm} warm, is none: size is at least 1 and warm at least 0."
            )
        self.size, self.kernel = size, kernel
        self.warm = min(8, -(-size // 4)) if warm is None else warm
        make_room(size + self.warm)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turns = Turns(size, max_waiting=max_waiting, wait_seconds=wait_seconds)
        self._leases: set[PoolSlot] = set()
        self._kernels: set[KernelChannel] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._idle: deque[KernelChannel] = deque()
        self._warming: set[asyncio.Task[None]] = set()
        self._starts = asyncio.Semaphore(max(4, 2 * (os.cpu_count() or 1)))  # more at once only delay each other
        self._keeper: asyncio.Task[None] | None = None
        self._returned = asyncio.Event()
        self._draining = self._closed = False
        self._started = self._failed = self._restarts = self._replaced = self._killed = self._ended = 0
        self._start_times, self._queue_times, self._run_times = Durations(), Durations(), Durations()

    @property
    def metrics(self) -> PoolMetrics:
        """How it stands now."""
        return PoolMetrics(
            leased=len(self._leases),
            kernels=len(self._kernels) + len(self._ending),
            warm=len(self._idle),
            waiting=self._turns.waiting,
            started=self._started,
            failed_starts=self._failed,
            restarts=self._restarts,
            replaced=self._replaced,
            killed=self._killed,
            leases=self._ended,
            refused=self._turns.refused,
            start=self._start_times.times(),
            queue=self._queue_times.times(),
            run=self._run_times.times(),
        )

    # ------------------------------------------------------------------ life

    async def astart(self) -> Self:
        """Begin to start warm kernels; the first lease does so too."""
        self._enter()
        return self

    def _enter(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
            self._keeper = loop.create_task(self._keep())
        elif self._loop is not loop:
            raise KernelError("A pool belongs to the event loop that used it first: make another one for this loop.")
        if self._draining:
            raise KernelError("The pool is drained or draining and gives out no kernels: make another one.")
        self._fill()

    async def drain(self, *, seconds: float = 30.0) -> None:
        """Refuse new leases, let those there are end for `seconds`, then kill what is left. Safe to call twice.

        Callers in the queue get a KernelError at once, and so do sessions whose kernel was killed under a cell.
        """
        self._draining = True
        self._turns.turn_away("The pool was drained while this session waited for a kernel.")
        try:
            await to_the_end(self._cool())
            deadline = time.monotonic() + seconds
            while self._leases and (left := deadline - time.monotonic()) > 0:
                self._returned.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._returned.wait(), left)
        finally:
            self._closed = True
            await to_the_end(self._kill())

    async def _cool(self) -> None:
        """End everything that is started ahead."""
        await end(*self._warming, *([self._keeper] if self._keeper is not None else []))
        idle = list(self._idle)
        self._idle.clear()
        await asyncio.gather(*map(self._end, idle))

    async def _kill(self) -> None:
        await asyncio.gather(*(lease.close() for lease in list(self._leases)))
        await asyncio.gather(*map(self._end, list(self._kernels)))
        await asyncio.gather(*self._ending)

    async def aclose(self) -> None:
        """Drain without waiting."""
        await self.drain(seconds=0.0)

    async def __aenter__(self) -> Self:
        return await self.astart()

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __enter__(self) -> Self:
        return run_blocking(self.astart())

    def __exit__(self, *_: object) -> None:
        run_blocking(self.aclose())

    def drain_on_sigterm(self, *, seconds: float = 30.0) -> None:
        """For a main program, from a coroutine in the main thread: what `pool_signals.on_sigterm` says."""
        on_sigterm(lambda left: self.drain(seconds=left), seconds)

    # ------------------------------------------------------------------ leases

    async def lease(self) -> PoolSlot:
        """A slot, as soon as one is free. Close it. Raises PoolExhausted, and KernelError once the pool drains."""
        self._enter()
        asked = time.monotonic()
        await self._turns.take()
        lease = PoolSlot(self)
        self._leases.add(lease)
        self._queue_times.add(time.monotonic() - asked)
        return lease

    # ------------------------------------------------------------------ kernels

    async def _take(self) -> KernelChannel:
        """A kernel that ran nobody's code: a warm one that answers, else a new one."""
        while self._idle and not self._closed:
            channel = self._idle.popleft()
            self._fill()
            try:
                if await _answers(channel):
                    return channel
            except BaseException:
                await self._end(channel)
                raise
            self._replaced += 1
            await self._end(channel)
        return await self._start()

    async def _start(self) -> KernelChannel:
        async with self._starts:
            if self._closed:
                raise KernelError("The pool is closed: its kernels are gone. Run the session again with another pool.")
            began = time.monotonic()
            try:
                channel = await open_kernel(self.kernel)
            except KernelError:
                self._failed += 1
                raise
        self._started += 1
        self._kernels.add(channel)
        self._start_times.add(time.monotonic() - began)
        return channel

    async def _end(self, channel: KernelChannel) -> None:
        """Kill a kernel; goes on when cancelled, and does nothing the second time."""
        if channel in self._kernels:
            self._kernels.remove(channel)
            ending = asyncio.get_running_loop().create_task(channel.stop())
            self._ending.add(ending)
            ending.add_done_callback(self._gone)
            await asyncio.shield(ending)

    def _gone(self, ending: asyncio.Task[None]) -> None:
        self._ending.remove(ending)
        self._killed += 1

    def _fill(self) -> None:
        """Start as many kernels ahead as are missing."""
        while not self._draining and len(self._idle) + len(self._warming) < self.warm:
            task = asyncio.get_running_loop().create_task(self._warm())
            self._warming.add(task)
            task.add_done_callback(self._warming.discard)

    async def _warm(self) -> None:
        delay = 0.5
        while True:
            try:
                self._idle.append(await self._start())
                return
            except KernelError:  # told to those who ask for a kernel
                await asyncio.sleep(delay)
                delay = min(2 * delay, MAX_DELAY_SECONDS)

    async def _keep(self) -> None:
        """Look after the warm kernels."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            gone = [channel for channel in self._idle if not channel.alive]
            if self._idle and not gone:
                self._idle.rotate()
                asked = self._idle[0]
                gone = [] if await _answers(asked) else [asked]
            for channel in gone:
                if channel in self._idle:  # else leased meanwhile
                    self._idle.remove(channel)
                    self._replaced += 1
                    await self._end(channel)
            self._fill()


class PoolSlot:
    """A slot of a pool."""

    def __init__(self, pool: KernelPool) -> None:
        self._pool = pool
        self._channel: KernelChannel | None = None
        self._kernels = 0
        self._since = time.monotonic()
        self._closed = False

    async def kernel(self) -> KernelChannel:
        """As `Slot.kernel`."""
        if self._closed:
            raise KernelError("The pool has taken this session's kernel back: it was drained.")
        channel = await self._pool._take()
        if self._closed:  # drained meanwhile
            await self._pool._end(channel)
            raise KernelError("The pool was drained while this session's kernel was started.")
        self._channel = channel
        self._kernels += 1
        self._pool._restarts += self._kernels > 1
        return channel

    async def drop(self) -> None:
        """As `Slot.drop`."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await self._pool._end(channel)

    async def close(self) -> None:
        """As `Slot.close`."""
        if not self._closed:
            self._closed = True
            await to_the_end(self._close())

    async def _close(self) -> None:
        pool = self._pool
        try:
            await self.drop()
        finally:
            pool._leases.discard(self)
            pool._ended += 1
            pool._run_times.add(time.monotonic() - self._since)
            pool._turns.give()
            pool._returned.set()


async def _answers(channel: KernelChannel) -> bool:
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            await channel.execute("", lambda message: None, silent=True)
    except (TimeoutError, KernelDied):
        return False
    return True
