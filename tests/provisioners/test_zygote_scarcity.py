"""The fork server when something runs short: descriptors, processes, room on the wire, time."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kernel_agent import KernelOptions, Session, Status
from kernel_agent.errors import KernelError
from kernel_agent.provisioners.environment import harmless
from kernel_agent.provisioners.zygote import close_parents, parents, report
from kernel_agent.provisioners.zygote.parent import ForkError, Order, WarmParent

FORKED = KernelOptions(isolation="none")
pytestmark = pytest.mark.skipif(bool(parents.unsupported()), reason="no fork server on this system")


@pytest.fixture
def parent() -> Iterator[WarmParent]:
    """A warm parent that serves this process's sessions."""
    close_parents()
    with Session(kernel=FORKED):
        until(lambda: "1 warm" in report().detail)
    (slot,) = parents._slots.values()
    assert slot.parent is not None
    yield slot.parent
    close_parents()


def until(true: Callable[[], bool]) -> None:
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < 60
        time.sleep(0.02)


def why_not_forked() -> str:
    """Of a session that works either way."""
    with Session(kernel=FORKED) as session:
        assert session.run("1 + 1").status is Status.OK
        return why(session)


def why(session: Session) -> str:
    assert session._channel is not None
    return str(session._channel._manager.provisioner.why_not_forked)


def nowhere(name: str = "") -> Order:
    """An order that dies at birth: it has no folder to work in."""
    return Order(file="none", cwd="/nonexistent", env={"NAME": name})


def test_a_parent_without_descriptors_says_so_and_recovers(parent: WarmParent) -> None:
    limits = resource.prlimit(parent.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(parent.pid, resource.RLIMIT_NOFILE, (6, limits[1]))  # what it has open
    assert "no file descriptors left" in why_not_forked()
    resource.prlimit(parent.pid, resource.RLIMIT_NOFILE, limits)
    assert why_not_forked() == ""


@pytest.mark.skipif(os.getuid() == 0, reason="the limit does not hold for root")
def test_a_parent_that_may_not_fork_says_so_and_recovers(parent: WarmParent) -> None:
    limits = resource.prlimit(parent.pid, resource.RLIMIT_NPROC)
    resource.prlimit(parent.pid, resource.RLIMIT_NPROC, (1, limits[1]))
    assert "temporarily unavailable" in why_not_forked()
    resource.prlimit(parent.pid, resource.RLIMIT_NPROC, limits)
    assert why_not_forked() == ""


def test_a_host_without_descriptors_does_not_give_forks_up_for_good() -> None:
    close_parents()
    until(lambda: not any(thread.name == "codevision-fork" for thread in threading.enumerate()))  # they close files
    warmth = parents.Warmth.of((sys.executable,), harmless(os.environ))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert isinstance(parents.ask(warmth), str)  # the first never waits
    lowest = os.dup(0)
    os.close(lowest)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
        said = [parents.ask(warmth) for _ in range(parents.MAX_FAILURES + 1)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert all("Too many open files" in str(answer) for answer in said)
    ready = parents.ask(warmth)
    assert not isinstance(ready, str)
    assert ready.result(120).alive
    close_parents()


def test_an_order_with_half_its_descriptors_keeps_none(parent: WarmParent) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = len(list(Path("/proc/self/fd").iterdir()))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before + 20, limits[1]))
        with pytest.raises(OSError, match="Too many open files"):
            parent.spawn(nowhere(), [0] * 200)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(list(Path("/proc/self/fd").iterdir())) < before + 5


def test_an_environment_too_big_for_an_order(monkeypatch: pytest.MonkeyPatch) -> None:
    close_parents()
    monkeypatch.setenv("LC_LONG", "x" * 110_000)
    assert "not warm yet" in why_not_forked()
    assert "over 100000" in why_not_forked()
    close_parents()


def test_sending_does_not_wait_for_a_parent_that_does_not_read(parent: WarmParent) -> None:
    """With orders larger than the socket takes, which all come through once it reads again."""
    os.kill(parent.pid, signal.SIGSTOP)
    asked: list[Any] = []

    def send() -> None:
        asked.extend(parent.spawn(nowhere("x" * 90_000), [0, 1, 2]) for _ in range(20))

    sending = threading.Thread(target=send, daemon=True)
    sending.start()
    sending.join(60)
    stuck = sending.is_alive()
    os.kill(parent.pid, signal.SIGCONT)
    assert not stuck
    assert len(asked) == 20
    for future in asked:
        with pytest.raises(ForkError, match="/nonexistent"):
            future.result(60)


def test_a_parent_that_dies_with_orders_on_the_wire(parent: WarmParent) -> None:
    os.kill(parent.pid, signal.SIGSTOP)
    asked = [parent.spawn(nowhere(), [0, 1, 2]) for _ in range(20)]
    os.kill(parent.pid, signal.SIGKILL)
    for future in asked:
        with pytest.raises(ForkError, match="fork server"):
            future.result(60)
    with pytest.raises(ForkError, match="status -9"):
        parent.spawn(nowhere(), [0, 1, 2]).result(60)


def test_a_parent_that_dies_under_many_starts(parent: WarmParent) -> None:
    """A start whose kernel died says so, all others work, nothing waits for ever or is left behind."""

    async def one(killed: asyncio.Event) -> Status:
        async with Session(kernel=FORKED) as session:
            await killed.wait()
            await session.arun("1", seconds=1)  # it may take a cell to notice
            return (await session.arun("2")).status

    async def many() -> list[Any]:
        killed = asyncio.Event()
        starts = [asyncio.create_task(one(killed)) for _ in range(12)]
        await asyncio.sleep(0.15)
        os.kill(parent.pid, signal.SIGKILL)
        await asyncio.to_thread(parent._process.wait)  # then its kernels have their signal
        killed.set()
        return await asyncio.wait_for(asyncio.gather(*starts, return_exceptions=True), 300)

    found = asyncio.run(many())
    assert [end for end in found if end is not Status.OK and not isinstance(end, KernelError)] == []
    assert Status.OK in found
    why_not_forked()  # if it is the first to ask since
    until(lambda: "1 warm" in report().detail)
    assert why_not_forked() == ""


@pytest.mark.slow
def test_a_parent_that_hangs_is_waited_for_once(parent: WarmParent) -> None:
    os.kill(parent.pid, signal.SIGSTOP)
    assert "did not answer" in why_not_forked()
    assert "does not answer" in why_not_forked()  # so it was not waited for
    os.kill(parent.pid, signal.SIGCONT)
    until(lambda: not parent.late)
    assert why_not_forked() == ""


def test_cancelled_starts_leave_no_message(parent: WarmParent, caplog: pytest.LogCaptureFixture) -> None:
    """The fork may come when the loop that asked for it is closed."""

    async def cancelled() -> None:
        task = asyncio.create_task(Session(kernel=FORKED).astart())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    for _ in range(5):
        asyncio.run(cancelled())
    assert why_not_forked() == ""  # its fork came after theirs
    assert not caplog.records


SHORT = """
import sys, time
from kernel_agent import KernelOptions, Session
with Session(kernel=KernelOptions(isolation="none")) as session:
    pass
time.sleep({rest})
"""


@pytest.mark.parametrize("rest", [0.55, 0.9])
def test_a_process_that_ends_when_its_parent_is_due_ends_quietly(rest: float) -> None:
    done = subprocess.run([sys.executable, "-c", SHORT.format(rest=rest)], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
