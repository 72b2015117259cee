"""What only many cells, many kernels or a jumping clock would show. `pytest -m soak`."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from kernel_agent import Budget, KernelOptions, KernelPool, Session, Status
from kernel_agent.types import StreamOutput

pytestmark = pytest.mark.soak


def own_mib(pid: int | None) -> float:
    """Memory of the process alone, in MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


@pytest.mark.parametrize("fork", [True, False], ids=["forked", "plain"])
def test_a_thousand_cells_take_no_more_memory_than_a_hundred(picture: Image.Image, fork: bool) -> None:
    """The last results and a bounded number of images are held, whatever the cells make."""
    with Session([picture], budget=Budget(images=16), kernel=KernelOptions(fork=fork)) as session:

        def memory() -> tuple[float, float]:
            assert session._channel is not None
            gc.collect()
            session.run("import gc\ngc.collect();")
            return own_mib(os.getpid()), own_mib(session._channel.pid)

        def cells(count: int) -> None:
            for number in range(count):
                cell = session.run(
                    f"a = np.asarray(image_0.resize((400, 300)))\nprint({number}, a.mean())\n"
                    "result = Image.fromarray(a[::-1])"
                )
                assert isinstance(cell.outputs[0], StreamOutput)
                assert cell.outputs[0].text.startswith(f"{number} ")

        cells(100)
        before = memory()
        cells(900)
        grown = [after - then for then, after in zip(before, memory(), strict=True)]
        assert max(grown) < 12, f"host and kernel grew by {grown} MiB"


async def test_two_hundred_kernels_at_once(picture: Image.Image) -> None:
    async with KernelPool(200, warm=0) as pool:
        sessions = [Session([picture], pool=pool) for _ in range(200)]
        try:
            await asyncio.gather(*(session.astart() for session in sessions))
            assert (pool.metrics.leased, pool.metrics.failed_starts) == (200, 0)
            for code in (
                "x = image_0.rotate(5)",
                "result = x.rotate(9)",
                "import time\ntime.sleep(1)\nprint(len(images))",
            ):
                cells = await asyncio.gather(*(session.arun(code) for session in sessions))
                assert {cell.status for cell in cells} == {Status.OK}
            assert {output.text for cell in cells for output in cell.outputs if isinstance(output, StreamOutput)} == {
                "2\n"
            }
        finally:
            await asyncio.gather(*(session.aclose() for session in sessions))
    assert pool.metrics.kernels == 0


JUMPING = """
import asyncio, json, os, time
from kernel_agent import KernelPool, Session
from kernel_agent.errors import PoolExhausted

def jump(offset):
    open(os.environ["FAKETIME_TIMESTAMP_FILE"], "w").write(offset)

async def main():
    found = {}
    async with KernelPool(1, warm=1, wait_seconds=1.0) as pool, Session(pool=pool) as session:
        for offset in ("+400d", "-400d"):
            wall, clock = time.time(), time.monotonic()
            running = asyncio.create_task(session.arun("import time; time.sleep(1)\\nprint('whole')", seconds=30))
            await asyncio.sleep(0.3)
            jump(offset)
            found["jumped", offset] = abs(time.time() - wall) > 86400
            found["cell", offset] = (await running).status
            found["interrupted", offset] = (await session.arun("time.sleep(1e6)", seconds=0.5)).status
            try:
                await pool.lease()
            except PoolExhausted:
                found["queue", offset] = "timed out"
            found["took", offset] = time.monotonic() - clock < 20
        found["recovered"] = (await session.arun("import os; os._exit(0)")).status
        jump("+1d")
        await pool.drain(seconds=0.5)
    print(json.dumps([(str(key), value) for key, value in found.items()]))

asyncio.run(main())
"""


def test_a_jumping_clock_moves_no_deadline(tmp_path: Path) -> None:
    """Needs Debian's package `faketime`: it changes what the driver reads from the wall clock, as `date -s` would."""
    (library,) = map(str, Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    offset = tmp_path / "offset"
    offset.write_text("+0")
    environment = {
        **os.environ,
        "LD_PRELOAD": library,
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DONT_RESET": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", JUMPING], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    found = dict(json.loads(done.stdout.splitlines()[-1]))
    values = {key: value for key, value in found.items() if "jumped" in key or "took" in key}
    assert set(values.values()) == {True}, found
    assert {value for key, value in found.items() if "'cell'" in key} == {"ok"}
    assert {value for key, value in found.items() if "'interrupted'" in key} == {"timeout"}
    assert {value for key, value in found.items() if "'queue'" in key} == {"timed out"}
    assert found["recovered"] == "killed"
