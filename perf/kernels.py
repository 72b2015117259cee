"""What starting, asking, branching and holding kernels costs: `python -m perf.kernels --json OUT [--many 100]`.

Stock is ipykernel as jupyter_client starts it: default TCP, `wait_for_ready`, then the imports of `IMPORTS` as the first cell.
Ours is a kernel behind the session's own channel with the same cell: `plain` without isolation, `strong` with it.

| figure | what it is | goal |
|---|---|---|
| ready_ratio_plain, ready_ratio_strong | stock / ours, a kernel ready with the imports; the fork server is warm | 15, 10 |
| session_ratio | the same, ours being a whole `Session` in `strong`, with its hooks in the kernel | |
| cold_first_ratio | ours in `strong` / stock, the first kernel of a new process, no fork server yet | 1.1 |
| cold_first_ratio_plain | the same without isolation | |
| hundred_time_ratio, hundred_memory_ratio | stock / ours, `hundred_count` kernels at once, all ready with the imports: time, and PSS of all their processes, the fork server among them; without isolation | 12, 5 |
| hundred_time_ratio_strong, hundred_memory_ratio_strong | the same in `strong` | |
| hundred_failures | kernels of ours that did not get ready, of both kinds | 0 |
| roundtrip_vs_bare, roundtrip_vs_nbclient | `1+1` in a session / a bare jupyter_client over ipc; / nbclient | 1.1, 0.8 |
| display_cpu_ratio_lossless, display_cpu_ratio_lossy | stock / ours, CPU of kernel and host for a cell that shows a 1024x768 photo | 2.5, 5 |
| throughput_ratio, client_cpu_ratio | the same cell on 32 kernels from one process: cells a second ours / stock; CPU of that process a cell, ours / stock | 2, 0.7 |
| client_cpu_ratio_files | the same with every picture's file asked for, as a saved notebook does | |
| fork_vs_replay | replay / fork of a session whose ten cells open, turn and crop 12 MP pictures | 25 |
| idle_kernel_mb, idle_kernel_after_mb | memory of its own (USS) of an idle session's kernel: new; after 200 cells | 15, - |

Ratios are medians of pairs measured in turn; milliseconds and `load` (1 minute, before and after) are of this machine. Cells
and forks are measured in `strong` where it can be had.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from kernel_agent import KernelOptions, Session, Status
from kernel_agent.provisioners.zygote import close_parents, parents, report
from kernel_agent.session.channel import KernelChannel
from perf import cells, stock
from perf.display import display

PLAIN = KernelOptions(isolation="none")
STRONG = KernelOptions(isolation="strong")
FIRST = {"stock": None, "plain": PLAIN, "strong": STRONG}
Kernels = Callable[[contextlib.AsyncExitStack], Awaitable[int]]


async def a_stock_kernel(stack: contextlib.AsyncExitStack) -> int:
    held, client = await stack.enter_async_context(stock.manager())
    await stock.run(client, stock.IMPORTS)
    return int(held.provisioner.pid)


def a_kernel(options: KernelOptions) -> Kernels:
    async def start(stack: contextlib.AsyncExitStack) -> int:
        channel = KernelChannel(options)
        await channel.start()
        stack.push_async_callback(channel.stop)
        answer = await channel.execute(stock.IMPORTS, lambda message: None)
        assert answer["content"]["status"] == "ok", answer["content"]
        assert channel.pid is not None
        return channel.pid

    return start


async def a_session(stack: contextlib.AsyncExitStack) -> int:
    session = await stack.enter_async_context(Session(kernel=STRONG))
    assert (await session.arun(stock.IMPORTS)).status is Status.OK
    return 0


async def seconds(kernel: Kernels) -> float:
    """Until one kernel is ready."""
    async with contextlib.AsyncExitStack() as stack:
        began = time.perf_counter()
        await kernel(stack)
        return time.perf_counter() - began


async def warm() -> None:
    """Have the first kernel, which is never a fork, behind us, and each kind once."""
    async with contextlib.AsyncExitStack() as stack:
        await a_kernel(PLAIN)(stack)
        while "warm" not in report().detail:  # noqa: ASYNC110 (nothing to await)
            await asyncio.sleep(0.05)
        assert report().forks, report()
        for options in (PLAIN, STRONG):
            await a_kernel(options)(stack)


async def ready(rounds: int) -> dict[str, float]:
    await warm()
    kinds = {"stock": a_stock_kernel, "plain": a_kernel(PLAIN), "strong": a_kernel(STRONG), "session": a_session}
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(rounds):
        for name, kernel in kinds.items():
            times[name].append(await seconds(kernel))

    def ratio(name: str) -> float:
        return statistics.median(a / b for a, b in zip(times["stock"], times[name], strict=True))

    return {
        "ready_ratio_plain": ratio("plain"),
        "ready_ratio_strong": ratio("strong"),
        "session_ratio": ratio("session"),
        **{f"ready_{name}_ms": statistics.median(values) * 1e3 for name, values in times.items()},
    }


def first(rounds: int) -> dict[str, float]:
    """Each in a process of its own."""
    times: dict[str, list[float]] = {name: [] for name in FIRST}
    for _ in range(rounds):
        for name, values in times.items():
            command = [sys.executable, "-m", "perf.kernels", "--first", name]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            values.append(float(said.splitlines()[-1]))

    def ratio(name: str) -> float:
        return statistics.median(b / a for a, b in zip(times["stock"], times[name], strict=True))

    return {
        "cold_first_ratio": ratio("strong"),
        "cold_first_ratio_plain": ratio("plain"),
        **{f"cold_first_{name}_ms": statistics.median(values) * 1e3 for name, values in times.items()},
    }


async def at_once(kernel: Kernels, count: int) -> tuple[float, float, int]:
    """Seconds until all are ready, their memory in MB, and how many failed."""
    async with contextlib.AsyncExitStack() as stack:
        began, took = time.perf_counter(), 0.0

        async def one() -> int:
            nonlocal took
            pid = await kernel(stack)
            took = (
                time.perf_counter() - began
            )  # of the last that got ready: one that never does is a failure, not a time
            return pid

        found = await asyncio.gather(*(one() for _ in range(count)), return_exceptions=True)
        pids = {pid for pid in found if isinstance(pid, int)}
        for error in found:
            if not isinstance(error, int):
                print(f"failed: {error!r}", file=sys.stderr)
        memory = sum(map(pss, pids | {slot.parent.pid for slot in parents._slots.values() if slot.parent}))
        return took, memory, count - len(pids)


def pss(pid: int) -> float:
    """Megabytes of a process, shared pages by their share."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in rollup if line.startswith("Pss:")) / 1024


async def many(count: int) -> dict[str, float]:
    close_parents()
    stock_took, stock_memory, stock_failures = await at_once(a_stock_kernel, count)
    await warm()
    figures: dict[str, float] = {
        "hundred_count": count,
        "hundred_failures": 0,
        "hundred_stock_failures": stock_failures,
        "hundred_stock_s": stock_took,
        "hundred_stock_pss_mb": stock_memory,
    }
    for end, options in (("", PLAIN), ("_strong", STRONG)):
        took, memory, failures = await at_once(a_kernel(options), count)
        figures["hundred_failures"] += failures
        figures |= {
            f"hundred_time_ratio{end}": stock_took / took,
            f"hundred_memory_ratio{end}": stock_memory / memory,
            f"hundred_ours{end}_s": took,
            f"hundred_ours{end}_pss_mb": memory,
        }
    return figures


async def in_cells(rounds: int) -> dict[str, float]:
    await warm()
    figures = await cells.round_trips(STRONG, 200)
    figures |= await cells.idle_memory(STRONG, 200)
    figures |= await cells.throughput(STRONG, 32, rounds)
    figures |= await cells.fork_vs_replay(STRONG, max(2, rounds // 2))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--many", type=int, default=100, help="kernels started at once")
    parser.add_argument("--first", choices=[*FIRST], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.first:
        kind = FIRST[options.first]
        print(asyncio.run(seconds(a_stock_kernel if kind is None else a_kernel(kind))))
        return
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    figures: dict[str, Any] = {"load": [cells.load()]}
    parts: list[tuple[str, Callable[[], dict[str, float]]]] = [
        ("start", lambda: asyncio.run(ready(options.rounds))),
        ("first kernel", lambda: first(options.rounds)),
        ("cells and forks", lambda: asyncio.run(in_cells(options.rounds))),
        ("a displayed picture", lambda: asyncio.run(display(options.rounds))),
        (f"{options.many} at once", lambda: asyncio.run(many(options.many))),
    ]
    for name, part in parts:
        print(f"... {name}", file=sys.stderr, flush=True)
        figures |= part()
    figures["load"].append(cells.load())
    for name, value in figures.items():
        print(f"{name:32} {value if isinstance(value, list) else format(value, '10.3f')}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
