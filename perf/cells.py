"""Cells, one after another and on many kernels at once: parts of `python -m perf.kernels`."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from typing import Any

import nbformat
from nbclient import NotebookClient

from kernel_agent import Budget, KernelOptions, Session, Status
from perf.stock import manager, run

PHOTO = """
import numpy as np
from PIL import Image
y, x = np.mgrid[:768, :1024]
rng = np.random.default_rng(0)
waves = [127 + 90 * np.sin(x / a + y / b) for a, b in ((41, 67), (23, 91), (57, 29))]
photo = Image.fromarray((np.stack(waves, -1) + rng.normal(0, 6, (768, 1024, 3))).clip(0, 255).astype(np.uint8))
"""
"""A 1024x768 picture with a photograph's noise: PNG takes about 1.5 MB, as the photographs in our notes do."""


async def round_trips(options: KernelOptions, count: int) -> dict[str, float]:
    """`1+1`, cell by cell in turn, so that all meet the same load."""
    times: dict[str, list[float]] = {"bare": [], "nbclient": [], "ours": []}
    folder = tempfile.mkdtemp(prefix="cv-")
    cell = nbformat.v4.new_code_cell("1+1")
    notebook = NotebookClient(nbformat.v4.new_notebook(cells=[cell]), kernel_name="python3")
    async with (
        manager(transport="ipc", connection_file=f"{folder}/k.json", ip=f"{folder}/k") as (_, client),
        notebook.async_setup_kernel(),
        Session(kernel=options) as session,
    ):
        for _ in range(count + 5):
            marks = [time.perf_counter()]
            await run(client, "1+1")
            marks.append(time.perf_counter())
            await notebook.async_execute_cell(cell, 0)
            marks.append(time.perf_counter())
            await session.arun("1+1")
            marks.append(time.perf_counter())
            for values, began, ended in zip(times.values(), marks, marks[1:], strict=False):
                values.append(ended - began)
    ms = {name: statistics.median(values[5:]) * 1e3 for name, values in times.items()}
    return {
        "roundtrip_vs_bare": ms["ours"] / ms["bare"],
        "roundtrip_vs_nbclient": ms["ours"] / ms["nbclient"],
        **{f"roundtrip_{name}_ms": value for name, value in ms.items()},
    }


async def throughput(options: KernelOptions, kernels: int, rounds: int) -> dict[str, float]:
    """A cell that shows `PHOTO`, on all kernels at once, from this one process; stock and ours in turn.

    `ours` is the cell alone: its pictures are named and hashed, their files are not made yet. `files` asks for them, as a
    notebook that is saved and a model that is shown them do.
    """
    enough = Budget(images=10 * rounds)
    async with contextlib.AsyncExitStack() as stack:
        clients = [client for _, client in await asyncio.gather(*(_stock(stack) for _ in range(kernels)))]
        made = [Session(kernel=options, budget=enough) for _ in range(kernels)]
        sessions = await asyncio.gather(*map(stack.enter_async_context, made))
        await asyncio.gather(*(run(client, PHOTO) for client in clients))
        await asyncio.gather(*(session.arun(PHOTO) for session in sessions))
        kinds: dict[str, Callable[[], list[Awaitable[None]]]] = {
            "stock": lambda: [_take(client) for client in clients],
            "ours": lambda: [_show(session, files=False) for session in sessions],
            "files": lambda: [_show(session, files=True) for session in sessions],
        }
        wall: dict[str, list[float]] = {name: [] for name in kinds}
        cpu: dict[str, list[float]] = {name: [] for name in kinds}
        for number in range(rounds + 1):
            for name, work in kinds.items():
                gc.collect()  # what the kind before left
                began, spent = time.perf_counter(), time.process_time()
                await asyncio.gather(*work())
                if number:  # the first fills caches
                    wall[name].append(time.perf_counter() - began)
                    cpu[name].append(time.process_time() - spent)

    def ratio(figures: dict[str, list[float]], name: str) -> float:
        return statistics.median(a / b for a, b in zip(figures["stock"], figures[name], strict=True))

    return {
        "throughput_ratio": ratio(wall, "ours"),
        "throughput_ratio_files": ratio(wall, "files"),
        "client_cpu_ratio": 1 / ratio(cpu, "ours"),
        "client_cpu_ratio_files": 1 / ratio(cpu, "files"),
        **{f"throughput_{name}_cells_s": kernels / statistics.median(values) for name, values in wall.items()},
        **{f"client_{name}_ms": statistics.median(values) / kernels * 1e3 for name, values in cpu.items()},
    }


async def _stock(stack: contextlib.AsyncExitStack) -> tuple[Any, Any]:
    return await stack.enter_async_context(manager())


async def _take(client: Any) -> None:
    """What any client does with the cell: read its messages."""
    (output,) = await run(client, "photo")
    assert "image/png" in output["content"]["data"]


async def _show(session: Session, *, files: bool) -> None:
    cell = await session.arun("photo")
    assert cell.status is Status.OK
    (image,) = cell.images
    assert not files or (image.data and image.view)


LARGE = """
import numpy as np
from PIL import Image
y, x = np.mgrid[:3000, :4000]
Image.fromarray(np.stack([x % 251, y % 241, (x + y) % 239], -1).astype(np.uint8)).save("large.jpg", quality=90)
"""


async def fork_vs_replay(options: KernelOptions, rounds: int) -> dict[str, float]:
    """A session whose ten cells each open a 12 MP picture, turn and crop it: its fork against running them again."""
    fork: list[float] = []
    replay: list[float] = []
    async with Session(kernel=options) as session:
        await session.arun(LARGE)
        for number in range(10):
            turned = f"Image.open('large.jpg').rotate({number + 1}, expand=True)"
            cell = await session.arun(f"large_{number} = {turned}.crop((200, 200, 4200, 3200)); large_{number}.size")
            assert cell.status is Status.OK, cell.outputs
        for _ in range(rounds):
            for values, cells in ((fork, None), (replay, len(session.cells))):
                began = time.perf_counter()
                other = await session.afork(cells=cells)
                cell = await other.arun("large_9.getpixel((5, 5))")
                values.append(time.perf_counter() - began)
                assert cell.status is Status.OK, cell.outputs
                await other.aclose()
    return {
        "fork_vs_replay": statistics.median(b / a for a, b in zip(fork, replay, strict=True)),
        "fork_ms": statistics.median(fork) * 1e3,
        "replay_ms": statistics.median(replay) * 1e3,
    }


def own_memory(pid: int) -> float:
    """MB of a process that no other has (USS)."""
    lines = open(f"/proc/{pid}/smaps_rollup").read().splitlines()  # noqa: SIM115, PTH123
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean:", "Private_Dirty:"))) / 1024


async def idle_memory(options: KernelOptions, cells: int) -> dict[str, float]:
    """An idle session's kernel: new, and after some cells."""
    async with Session(kernel=options) as session:
        channel: Any = session._channel
        new = own_memory(channel.pid)
        for _ in range(cells):
            await session.arun("1+1")
        return {"idle_kernel_mb": new, "idle_kernel_after_mb": own_memory(channel.pid)}


def load() -> float:
    """Load of this machine over the last minute."""
    return os.getloadavg()[0]
