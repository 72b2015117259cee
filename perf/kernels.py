"""What starting and asking kernels costs: `python -m perf.kernels --json OUT [--many 100]`.

Stock is ipykernel as jupyter_client starts it: default TCP, `wait_for_ready`, then the imports of `IMPORTS` as the first cell.
Ours is the `codevision` provisioner with forks behind the session's own channel, with the same cell, without isolation.

| figure | what it is | goal |
|---|---|---|
| ready_ratio_plain | stock / ours, a kernel ready with the imports; the fork server is warm | 15 |
| session_ratio_plain | the same, ours being a whole `Session` with its hooks in the kernel | |
| cold_first_ratio | ours / stock, the first kernel of a new process, no fork server yet | 1.1 |
| hundred_time_ratio | stock / ours, `hundred_count` kernels at once, all ready with the imports | 12 |
| hundred_memory_ratio | the same, PSS of all their processes, the fork server among them | 5 |
| hundred_cold_time_ratio | the same in a new process: ours starts one kernel the ordinary way and warms up first | |
| hundred_failures | kernels of ours that did not get ready | 0 |
| roundtrip_vs_bare | `1+1` in a forked `Session` / a bare jupyter_client over ipc with a stock kernel | 1.1 |
| idle_kernel_mb, idle_kernel_after_mb | memory of its own (USS) of an idle forked session's kernel: new; after 205 cells | 15, - |

Ratios are medians of pairs measured in turn; milliseconds and `load` (1 minute, before and after) are of this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from jupyter_client import AsyncKernelManager

from kernel_agent import KernelOptions, Session, Status
from kernel_agent.provisioners.zygote import close_parents, parents, report
from kernel_agent.session.channel import KernelChannel

FORKED = KernelOptions(isolation="none")
IMPORTS = "import numpy, PIL.Image, cv2\nimport matplotlib.pyplot"
Kernels = Callable[[contextlib.AsyncExitStack], Awaitable[int]]


@contextlib.asynccontextmanager
async def manager(**options: Any) -> AsyncIterator[tuple[Any, Any]]:
    """A stock kernel, ready, and its client."""
    held = AsyncKernelManager(kernel_name="python3", **options)
    await held.start_kernel()
    client = held.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=180)
        yield held, client
    finally:
        client.stop_channels()
        await held.shutdown_kernel(now=True)


async def reply(client: Any, code: str) -> None:
    """Run code on a stock kernel; wait for its reply and its idle."""
    sent = client.execute(code)
    idle = False
    while not idle:
        message = await client.get_iopub_msg(timeout=180)
        idle = message["parent_header"].get("msg_id") == sent and message["content"].get("execution_state") == "idle"
    while (answer := await client.get_shell_msg(timeout=180))["parent_header"].get("msg_id") != sent:
        pass
    assert answer["content"]["status"] == "ok", answer["content"]


async def stock(stack: contextlib.AsyncExitStack) -> int:
    held, client = await stack.enter_async_context(manager())
    await reply(client, IMPORTS)
    return int(held.provisioner.pid)


async def ours(stack: contextlib.AsyncExitStack) -> int:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cv-")))
    channel = KernelChannel(folder, FORKED)
    await channel.start()
    stack.push_async_callback(channel.stop)
    answer = await channel.execute(IMPORTS, lambda message: None)
    assert answer["content"]["status"] == "ok", answer["content"]
    assert channel.pid is not None
    return channel.pid


async def our_session(stack: contextlib.AsyncExitStack) -> int:
    session = await stack.enter_async_context(Session(kernel=FORKED))
    assert (await session.arun(IMPORTS)).status is Status.OK
    assert session._channel is not None
    assert session._channel.pid is not None
    return session._channel.pid


async def seconds(kernel: Kernels) -> float:
    """Until one kernel is ready."""
    async with contextlib.AsyncExitStack() as stack:
        began = time.perf_counter()
        await kernel(stack)
        return time.perf_counter() - began


async def warm() -> None:
    async with contextlib.AsyncExitStack() as stack:
        await ours(stack)
        while "warm" not in report().detail:  # noqa: ASYNC110 (nothing to await)
            await asyncio.sleep(0.05)
        assert report().forks, report()
        await ours(stack)


async def ready(rounds: int) -> dict[str, float]:
    await warm()
    times: dict[str, list[float]] = {"stock": [], "ours": [], "session": []}
    for _ in range(rounds):
        for name, kernel in (("stock", stock), ("ours", ours), ("session", our_session)):
            times[name].append(await seconds(kernel))
    return {
        "ready_ratio_plain": statistics.median(a / b for a, b in zip(times["stock"], times["ours"], strict=True)),
        "session_ratio_plain": statistics.median(a / b for a, b in zip(times["stock"], times["session"], strict=True)),
        **{f"ready_{name}_ms": statistics.median(values) * 1e3 for name, values in times.items()},
    }


def first(rounds: int) -> dict[str, float]:
    """Each in a process of its own."""
    times: dict[str, list[float]] = {"stock": [], "ours": []}
    for _ in range(rounds):
        for name, values in times.items():
            command = [sys.executable, "-m", "perf.kernels", "--part", f"first-{name}"]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            values.append(float(said.splitlines()[-1]))
    return {
        "cold_first_ratio": statistics.median(b / a for a, b in zip(times["stock"], times["ours"], strict=True)),
        **{f"cold_first_{name}_ms": statistics.median(values) * 1e3 for name, values in times.items()},
    }


async def at_once(kernel: Kernels, count: int) -> tuple[float, float, int]:
    """Seconds until all are ready, their memory in MB, and how many failed."""
    async with contextlib.AsyncExitStack() as stack:
        began = time.perf_counter()
        found = await asyncio.gather(*(kernel(stack) for _ in range(count)), return_exceptions=True)
        took = time.perf_counter() - began
        pids = {pid for pid in found if isinstance(pid, int)}
        for error in found:
            if not isinstance(error, int):
                print(f"failed: {error!r}", file=sys.stderr)
        memory = sum(map(pss, pids | {slot.parent.pid for slot in parents._slots.values() if slot.parent}))
        return took, memory, count - len(pids)


def pss(pid: int, *fields: str) -> float:
    """Megabytes of a process, shared pages by their share."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    wanted = fields or ("Pss:",)
    return sum(int(line.split()[1]) for line in rollup if line.split()[0] in wanted) / 1024


async def many(count: int) -> dict[str, float]:
    close_parents()
    figures: dict[str, float] = {"hundred_count": count}
    stock_took, stock_memory, stock_failures = await at_once(stock, count)
    cold_took, _, cold_failures = await at_once(ours, count)
    await warm()
    took, memory, failures = await at_once(ours, count)
    figures |= {
        "hundred_time_ratio": stock_took / took,
        "hundred_cold_time_ratio": stock_took / cold_took,
        "hundred_memory_ratio": stock_memory / memory,
        "hundred_failures": failures + cold_failures,
        "hundred_stock_failures": stock_failures,
        "hundred_stock_s": stock_took,
        "hundred_ours_s": took,
        "hundred_stock_pss_mb": stock_memory,
        "hundred_ours_pss_mb": memory,
    }
    return figures


async def round_trips(count: int) -> dict[str, float]:
    """Cell by cell in turn, so that both meet the same load."""
    await warm()
    bare, asked = [], []
    folder = tempfile.mkdtemp(prefix="cv-")
    async with (
        manager(transport="ipc", connection_file=f"{folder}/k.json", ip=f"{folder}/k") as (_, client),
        Session(kernel=FORKED) as session,
    ):
        assert session._channel is not None
        assert session._channel.pid is not None
        idle = pss(session._channel.pid, "Private_Clean:", "Private_Dirty:")
        for _ in range(count + 5):
            began = time.perf_counter()
            await reply(client, "1+1")
            between = time.perf_counter()
            await session.arun("1+1")
            bare.append(between - began)
            asked.append(time.perf_counter() - between)
        used = pss(session._channel.pid, "Private_Clean:", "Private_Dirty:")
    return {
        "roundtrip_vs_bare": statistics.median(asked[5:]) / statistics.median(bare[5:]),
        "roundtrip_ours_ms": statistics.median(asked[5:]) * 1e3,
        "roundtrip_bare_ms": statistics.median(bare[5:]) * 1e3,
        "idle_kernel_mb": idle,
        "idle_kernel_after_mb": used,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--many", type=int, default=20, help="kernels started at once")
    parser.add_argument("--part", choices=["first-stock", "first-ours"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        print(asyncio.run(seconds(stock if options.part == "first-stock" else ours)))
        return
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    figures: dict[str, Any] = {"load": [os.getloadavg()[0]]}
    figures |= asyncio.run(ready(options.rounds))
    figures |= first(options.rounds)
    figures |= asyncio.run(round_trips(200))
    figures |= asyncio.run(many(options.many))
    figures["load"].append(os.getloadavg()[0])
    for name, value in figures.items():
        print(f"{name:28} {value if isinstance(value, list) else format(value, '10.3f')}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
