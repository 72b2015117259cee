"""A pool of kernels: bounded, fair, nothing carried over, nothing left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from kernel_agent import Agent, KernelOptions, KernelPool, Session, Status, Task
from kernel_agent.errors import KernelError, PoolExhausted
from kernel_agent.models.scripted import ScriptedModel
from kernel_agent.session.descriptors import PER_KERNEL
from kernel_agent.session.turns import Turns
from kernel_agent.types import CellResult, StreamOutput, TextOutput

pytestmark = pytest.mark.kernels


def text(cell: CellResult) -> str:
    return "".join(output.text for output in cell.outputs if isinstance(output, (StreamOutput, TextOutput)))


async def until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.02)


def check_sums(pool: KernelPool) -> None:
    metrics = pool.metrics
    assert metrics.started == metrics.kernels + metrics.killed == metrics.start.count
    assert metrics.leases == metrics.run.count
    assert metrics.leases + metrics.leased == metrics.queue.count
    assert metrics.warm <= metrics.kernels <= pool.size + pool.warm


async def test_forty_sessions_share_eight_kernels(picture: Image.Image) -> None:
    async with KernelPool(8, warm=2) as pool:

        async def rollout(number: int) -> tuple[str, int, int]:
            async with Session([picture], pool=pool) as session:
                check_sums(pool)
                assert pool.metrics.leased <= 8
                await session.arun(f"x = {number}\nresult = image_0.rotate({number})")
                cell = await session.arun("print(x, len(images))")
                value, count = text(cell).split()
                assert session._channel is not None
                return value, int(count), session._channel.pid or 0

        seen = await asyncio.gather(*map(rollout, range(40)))
        assert [value for value, _, _ in seen] == [str(number) for number in range(40)]
        assert {count for _, count, _ in seen} == {2}
        assert len({pid for _, _, pid in seen}) == 40
        check_sums(pool)
        assert (pool.metrics.leased, pool.metrics.waiting, pool.metrics.leases) == (0, 0, 40)
    check_sums(pool)
    assert pool.metrics.kernels == 0


async def test_nothing_is_carried_over() -> None:
    dirt = """
import builtins, json, os, pathlib, random, sys, threading, PIL.Image
builtins.secret = 1; os.environ["SECRET"] = "1"; json.dumps = lambda value: "mine"; PIL.Image.secret = 1
pathlib.Path("secret.txt").write_text("1"); os.chdir("/"); os.umask(0); sys.path.insert(0, "/secret")
threading.Thread(target=threading.Event().wait, daemon=True).start()
get_ipython().user_ns["secret"] = np.random.seed(1)
"""
    looks = """
import builtins, json, os, pathlib, sys, threading, PIL.Image
print([hasattr(builtins, "secret"), "SECRET" in os.environ, json.dumps(1), hasattr(PIL.Image, "secret"), os.listdir(),
       "/secret" in sys.path, "secret" in dir(), oct(os.umask(0o22)), len(In)], os.getcwd() == "/")
"""
    async with KernelPool(1, warm=1) as pool:
        async with Session(pool=pool) as clean:
            expected = text(await clean.arun(looks))
        async with Session(pool=pool) as dirty:
            await dirty.arun(dirt)
            assert "True, True, 'mine', True" in text(await dirty.arun(looks))
            assert dirty._channel is not None
            folder = dirty._channel.connection["ip"]
        async with Session(pool=pool) as after:
            assert after._channel is not None
            assert after._channel.connection["ip"] != folder
            assert text(await after.arun(looks)) == expected


async def test_waiting_is_fair_and_a_cancelled_wait_costs_nothing() -> None:
    turns = Turns(1, max_waiting=None, wait_seconds=None)
    order: list[int] = []

    async def wait(number: int) -> None:
        await turns.take()
        order.append(number)
        turns.give()

    await turns.take()
    waiting = [asyncio.create_task(wait(number)) for number in range(5)]
    await until(lambda: turns.waiting == 5)
    waiting[1].cancel()
    await asyncio.gather(waiting[1], return_exceptions=True)
    assert turns.waiting == 4
    turns.give()
    waiting[0].cancel()  # in the same moment as its turn comes
    await asyncio.gather(*waiting, return_exceptions=True)
    assert order == [2, 3, 4]
    async with asyncio.timeout(5):
        await turns.take()


async def test_a_slot_alone_costs_no_kernel() -> None:
    async with KernelPool(1, warm=0) as pool:
        leases = [asyncio.create_task(pool.lease()) for _ in range(2)]
        await (await leases[0]).close()
        await (await leases[1]).close()
        assert (pool.metrics.leases, pool.metrics.started) == (2, 0)


async def test_a_session_cancelled_in_the_queue_leaves_the_pool_whole() -> None:
    async with KernelPool(1, warm=0) as pool:
        async with Session(pool=pool) as session:
            waiting = asyncio.create_task(Session(pool=pool).arun("1"))
            await until(lambda: pool.metrics.waiting == 1)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert text(await session.arun("1 + 1")) == "2"
        starting = asyncio.create_task(Session(pool=pool).arun("1"))
        await asyncio.sleep(0.03)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert pool.metrics.leased == 0
        async with Session(pool=pool) as session:
            assert text(await session.arun("1 + 1")) == "2"
    check_sums(pool)


async def test_the_queue_has_limits() -> None:
    async with KernelPool(1, warm=0, max_waiting=1) as pool:
        lease = await pool.lease()
        waiting = asyncio.create_task(pool.lease())
        await until(lambda: pool.metrics.waiting == 1)
        with pytest.raises(PoolExhausted, match=r"All 1 kernels are in use and 1 callers wait: max_waiting=1"):
            await pool.lease()
        await lease.close()
        await (await waiting).close()
        await (await pool.lease()).close()
        assert pool.metrics.refused == 1
    async with KernelPool(1, warm=0, wait_seconds=0.3) as pool:
        lease = await pool.lease()
        with pytest.raises(PoolExhausted, match=r"within wait_seconds=0.3: all 1 are in use"):
            await pool.lease()
        await lease.close()
        await (await pool.lease()).close()
        assert pool.metrics.refused == 1


async def test_a_warm_kernel_that_died_is_replaced() -> None:
    async with KernelPool(1, warm=2) as pool:
        await until(lambda: pool.metrics.warm == 2)
        dead = {channel.pid for channel in pool._idle}
        for pid in dead:
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
        async with Session(pool=pool) as session:  # at once: nobody has noticed yet
            assert text(await session.arun("1 + 1")) == "2"
            assert session._channel is not None
            assert session._channel.pid not in dead
        await until(lambda: pool.metrics.warm == 2)
        assert pool.metrics.replaced == 2
        assert not dead & {channel.pid for channel in pool._idle}


async def test_a_warm_kernel_that_hangs_is_replaced() -> None:
    async with KernelPool(1, warm=1) as pool:
        await until(lambda: pool.metrics.warm == 1)
        (channel,) = pool._idle
        assert channel.pid is not None
        os.kill(channel.pid, signal.SIGSTOP)
        await until(lambda: pool.metrics.replaced == 1)
        await until(lambda: pool.metrics.warm == 1)
        assert channel not in pool._idle
        assert _gone(channel.pid)


async def test_a_leased_kernel_that_died_is_followed_by_another_of_the_same_slot(picture: Image.Image) -> None:
    async with KernelPool(1, warm=1) as pool, Session([picture], pool=pool) as session:
        await session.arun("x = 7\nresult = image_0.rotate(90)")
        cell = await session.arun("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
        assert cell.status is Status.KILLED
        assert text(await session.arun("print(x, len(images))")) == "7 2\n"
        assert session._channel is not None
        assert session._channel.pid is not None
        os.kill(session._channel.pid, signal.SIGKILL)  # between two cells
        await until(lambda: session._channel is not None and not session._channel.alive)
        assert text(await session.arun("print(x, len(images))")) == "7 2\n"
        assert (pool.metrics.leased, pool.metrics.restarts) == (1, 2)
        check_sums(pool)


async def test_a_kernel_that_cannot_start_is_an_error_and_frees_the_slot() -> None:
    async with KernelPool(1, warm=1, kernel=KernelOptions(provisioner="no-such-one")) as pool:
        for _ in range(3):
            with pytest.raises(KernelError, match="could not be started"):
                async with Session(pool=pool):
                    pass
        assert (pool.metrics.leased, pool.metrics.kernels, pool.metrics.started) == (0, 0, 0)
        assert pool.metrics.failed_starts >= 3


async def test_drain_lets_leases_end_and_refuses_new_ones() -> None:
    pool = await KernelPool(2, warm=1).astart()
    session = await Session(pool=pool).astart()
    other = await pool.lease()
    waiting = asyncio.create_task(pool.lease())
    await until(lambda: pool.metrics.waiting == 1)
    running = asyncio.create_task(session.arun("import time\ntime.sleep(1)\n6 * 7"))
    draining = asyncio.create_task(pool.drain(seconds=30))
    with pytest.raises(KernelError, match="drained while this session waited"):
        await waiting
    with pytest.raises(KernelError, match="make another one"):
        await pool.lease()
    assert text(await running) == "42"
    await other.close()
    assert not draining.done()
    await session.aclose()
    await draining
    assert pool.metrics.kernels == 0
    check_sums(pool)


async def test_drain_kills_what_does_not_end() -> None:
    pool = await KernelPool(1).astart()
    session = await Session(pool=pool).astart()
    running = asyncio.create_task(session.arun("import time\ntime.sleep(1e6)"))
    await asyncio.sleep(0.3)
    await pool.drain(seconds=0.2)
    with pytest.raises(KernelError, match="drained"):
        await running
    assert session.cells[-1].status is Status.KILLED
    await session.aclose()
    assert pool.metrics.kernels == 0


async def test_rollouts_take_their_kernels_from_the_pool(picture: Image.Image) -> None:
    messages = [
        '<tool_call>{"name": "code_image_tool", "arguments": {"code": "result = image.rotate(90)", "image_index": 0}}</tool_call>',
        "<answer>done</answer>",
    ]
    async with KernelPool(2, warm=1) as pool:
        tasks = [Task(question="What is it?", images=(picture,)) for _ in range(6)]
        runs = await asyncio.gather(*(Agent(ScriptedModel(messages), pool=pool).arun(task) for task in tasks))
        assert [len(run.images) for run in runs] == [2] * 6
        assert (pool.metrics.leases, pool.metrics.leased) == (6, 0)
        check_sums(pool)


def test_without_async(picture: Image.Image) -> None:
    with KernelPool(1, warm=0) as pool:
        for number in range(2):
            with Session([picture], pool=pool) as session:
                assert text(session.run(f"x = {number}\nx")) == str(number)
        with pytest.raises(KernelError, match="make another one for this loop"):
            asyncio.run(pool.lease())
    assert pool.metrics.leases == 2


async def test_descriptors_of_a_kernel_are_what_the_limit_reckons_with() -> None:
    async with KernelPool(6, warm=0) as pool:
        sessions = [Session(pool=pool) for _ in range(6)]
        await sessions[0].astart()
        await sessions[1].astart()
        before = _descriptors()
        await asyncio.gather(*(session.astart() for session in sessions[2:]))
        assert _descriptors() - before <= 4 * PER_KERNEL
        await asyncio.gather(*(session.aclose() for session in sessions))


@pytest.mark.parametrize(
    ("limits", "said"), [("64, 4096", "4096"), ("64, 300", "KernelError: 24 kernels need")], ids=["raised", "refused"]
)
def test_the_limit_of_descriptors_is_raised_or_refused(limits: str, said: str) -> None:
    code = (
        f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({limits}))\n"
        "from kernel_agent import KernelPool\n"
        "KernelPool(20, warm=4); print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert said in done.stdout + done.stderr


@pytest.mark.parametrize("size", [0, -3])
def test_a_pool_of_nothing_is_refused(size: int) -> None:
    with pytest.raises(KernelError, match="at least 1"):
        KernelPool(size)


DRIVER = """
import asyncio, pathlib, sys
from kernel_agent import KernelOptions, KernelPool, Session

class Pool(KernelPool):
    async def drain(self, *, seconds):
        print("draining", flush=True)
        await super().drain(seconds=seconds)

async def rollout(pool, seconds, all_here):
    async with Session(pool=pool) as session:
        await session.arun("import os, subprocess\\nchild = subprocess.Popen(['sleep', '3000'])")
        kernel, folder = session._channel.pid, pathlib.Path(session._channel.connection["ip"]).parent.parent
        tasks = pathlib.Path(f"/proc/{kernel}/task").iterdir()
        print("pids", kernel, *[(task / "children").read_text().strip() or "" for task in tasks], folder, flush=True)
        await all_here.wait()
        await session.arun(f"import time; time.sleep({seconds})\\nprint('ended')", seconds=1e5)
        print("ended", flush=True)

async def main():
    async with Pool(4, warm=int(sys.argv[3]), kernel=KernelOptions(fork=bool(int(sys.argv[2])))) as pool:
        pool.drain_on_sigterm(seconds=float(sys.argv[1]))
        try:
            all_here = asyncio.Barrier(len(sys.argv[4:]))
            await asyncio.gather(*(rollout(pool, seconds, all_here) for seconds in map(float, sys.argv[4:])))
        finally:
            print("main ended", flush=True)

asyncio.run(main())
"""


def _drive(
    drain: float, *runs: float, fork: bool = True, warm: int = 2
) -> tuple[subprocess.Popen[str], list[int], list[Path]]:
    environment = {**os.environ, "TMPDIR": tempfile.mkdtemp(prefix="cvt")}
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, *map(str, (drain, int(fork), warm, *runs))],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert driver.stdout is not None
    pids: list[int] = []
    folders: list[Path] = []
    for _ in runs:
        _, kernel, child, folder = driver.stdout.readline().split()
        pids += [int(kernel), int(child)]
        folders.append(Path(folder))
    return driver, pids, folders


def test_sigterm_drains_and_ends_the_program() -> None:
    driver, pids, folders = _drive(12, 2, 1e5, 1e5)
    driver.send_signal(signal.SIGTERM)
    said, _ = driver.communicate(timeout=120)
    assert driver.returncode == -signal.SIGTERM
    lines = [line for line in said.splitlines() if line != "draining"]
    assert lines == ["ended", "main ended"]  # the short one could end, the others were cut
    assert all(map(_gone, pids))
    assert not any(folder.exists() for folder in folders)
    assert list(folders[0].parent.iterdir()) == []


def test_a_second_sigterm_does_not_wait() -> None:
    driver, pids, _ = _drive(1e5, 1e5)
    assert driver.stdout is not None
    for _ in range(2):
        driver.send_signal(signal.SIGTERM)
        assert driver.stdout.readline() == "draining\n"  # two that are not taken yet are one
    driver.communicate(timeout=120)
    assert driver.returncode == -signal.SIGTERM
    assert all(map(_gone, pids))


@pytest.mark.parametrize("fork", [True, False], ids=["forked", "plain"])
def test_nothing_is_left_when_the_driver_is_killed(fork: bool) -> None:
    driver, pids, _ = _drive(1, 1e5, 1e5, 1e5, fork=fork, warm=1)
    driver.kill()
    driver.wait()
    left = [pid for pid in pids if not _gone(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def _gone(pid: int, seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
