"""What stops a cell, and that nothing else is lost: interrupt, cancel, kill, restart, replay."""

from __future__ import annotations

import asyncio
import base64
import os
import pickle
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kernel_agent import Budget, KernelOptions, Session, Status
from kernel_agent.blocking import run_blocking
from kernel_agent.errors import KernelError
from kernel_agent.types import CellResult, ErrorOutput, StreamOutput, TextOutput

pytestmark = pytest.mark.kernels

SETUP = """
import asyncio, base64, collections, hashlib, os, pickle, random, threading, time, types
random.seed(5); np.random.seed(6)
numbers = np.arange(12).reshape(3, 4) / 7
table = {"b": [1, 2.5, None], "a": {"deep": (1, "x")}}
counts = collections.Counter("mississippi")
open("notes.txt", "a").write("once\\n")
drawn = [random.random(), float(np.random.rand())]

def _state():
    kept = {}
    for name, value in list(get_ipython().user_ns.items()):
        if name.startswith("_") or name in ("In", "exit", "quit") or isinstance(value, types.ModuleType):
            continue
        if isinstance(value, (type, types.FunctionType)):  # pickle would only keep where they are found
            kept[name] = type(value).__name__
            continue
        try:
            kept[name] = pickle.loads(pickle.dumps(value))
        except Exception:
            kept[name] = type(value).__name__
    kept["next random"] = random.getstate(), hashlib.sha256(np.random.get_state()[1].tobytes()).hexdigest()
    kept["files"] = {path: open(path).read() for path in sorted(os.listdir())}
    print(base64.b64encode(pickle.dumps(kept)).decode())
"""


def text(cell: CellResult) -> str:
    return "".join(output.text for output in cell.outputs if isinstance(output, (StreamOutput, TextOutput)))


def kinds(cell: CellResult) -> list[str]:
    """What happened; on a busy machine a signal may have to be sent more than once."""
    return [event.kind for event in cell.events if event.kind != "interrupted_again"]


def state(session: Session) -> dict[str, Any]:
    """Every variable that can be pickled, by value; names and types of the others; files, random states.

    Asked beside the session, so that it is no cell of it.
    """
    assert session._channel is not None
    said: list[str] = []

    def take(message: Mapping[str, Any]) -> None:
        said.append(message["content"].get("text", ""))

    run_blocking(session._channel.execute("_state()", take, silent=True))
    kept: dict[str, Any] = pickle.loads(base64.b64decode("".join(said)))
    return kept


def differing(one: Mapping[str, Any], other: Mapping[str, Any], *, but: Collection[str] = ()) -> dict[str, Any]:
    """What is not the same in both, without the names `but`."""
    names = (one.keys() | other.keys()) - set(but)
    pairs = {name: (one.get(name, "missing"), other.get(name, "missing")) for name in names}
    return {name: pair for name, pair in pairs.items() if not _same(*pair)}


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return not differing(one, other)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return np.array_equal(one, other) if isinstance(one, np.ndarray) else bool(one == other)


def test_the_comparison_can_fail() -> None:
    assert differing({"a": np.zeros(3), "c": 1}, {"a": np.ones(3), "c": 1}).keys() == {"a"}
    assert differing({"a": [Image.new("L", (2, 2))]}, {"a": [Image.new("L", (2, 2), 1)]})
    assert differing({"a": 1}, {"a": 1, "b": 2}) == {"b": ("missing", 2)}
    assert not differing({"a": 1}, {"a": 1, "b": 2}, but={"b"})


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    """For interrupts: what an interrupted cell set would not outlive a kill."""
    yield from _session()


@pytest.fixture(scope="module")
def mortal() -> Iterator[Session]:
    """For kills."""
    yield from _session()


def _session() -> Iterator[Session]:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    budget = Budget(images=10_000, output_chars=10**6)
    with Session([Image.fromarray(pixels)], budget=budget) as shared:
        shared.run(SETUP)
        shared.run("result = image_0.rotate(90, expand=True)")
        shared.run("table['a']['seen'] = counts['s']\nraise ValueError(table)")
        yield shared


OPEN = KernelOptions(isolation="none")
"""For cells that leave a mark outside."""
ENOUGH = 1.5
"""Seconds after which a cell is surely where it hangs, on a machine that has other work to do."""

STOPPED = {
    "await sleep": "import asyncio\nawait asyncio.sleep(1e9)",
    "await never": "import asyncio\nawait asyncio.get_running_loop().create_future()",
    "async for": "async def f():\n    while True:\n        yield await asyncio.sleep(0.01)\nasync for _ in f(): pass",
    "gather": "await asyncio.gather(asyncio.sleep(1e9), asyncio.sleep(1e9))",
    "group": "async with asyncio.TaskGroup() as g: g.create_task(asyncio.sleep(1e9))",
    "thread": "import threading\nawait asyncio.to_thread(threading.Event().wait, 2.5)",
    "callback": "def f():\n    while True: pass\nasyncio.get_running_loop().call_soon(f)\nawait asyncio.sleep(1e9)",
    "other task": "async def f():\n    while True: pass\nawait asyncio.gather(f(), asyncio.sleep(1e9))",
}
RAISED = {
    "between awaits": "await asyncio.sleep(0)\nwhile True: pass",
    "sleep": "import time\ntime.sleep(1e6)",
    "loop": "while True: pass",
    "lock": "import threading\nlock = threading.Lock(); lock.acquire(); lock.acquire()",
    "child": "import subprocess\nsubprocess.run('exec sleep 98765.25', shell=True)",
    "regular expression": "import re\nre.match('(a+)+$', 'a' * 60 + 'b')",
}
KILLED = {
    "swallowed cancel": "while True:\n    try: await asyncio.sleep(1)\n    except BaseException: pass",
    "swallowed interrupt": "while True:\n    try: time.sleep(1)\n    except BaseException: pass",
    "ignored signal": "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\ntime.sleep(1e6)",
    "held interpreter": "sum(range(10**15))",
    "segfault": "import ctypes\nctypes.string_at(0)",
    "exit status 0": "import os\nos._exit(0)",
}


def check_next(session: Session, before: dict[str, Any], new: set[str]) -> None:
    """State as it was (`new` names aside), results not shifted, pictures the host's, pixel for pixel."""
    assert differing(before, state(session), but=new - before.keys()) == {}
    assert text(session.run("6 * 7")) == "42"
    held = text(session.run("print([hashlib.sha256(i.tobytes()).hexdigest() for i in images])"))
    assert held == f"{[_sha(image.to_pil()) for image in session.images]}\n"
    (image,) = session.run("image_0.resize((9, 7))").images
    assert (image.index, image.size) == (len(session.images) - 1, (9, 7))


def _sha(image: Image.Image) -> str:
    import hashlib

    return hashlib.sha256(image.tobytes()).hexdigest()


@pytest.mark.parametrize("case", STOPPED)
def test_an_await_is_cancelled_and_state_kept(session: Session, case: str) -> None:
    before = state(session)
    cell = session.run(STOPPED[case], seconds=ENOUGH)
    assert cell.status is Status.TIMEOUT
    assert kinds(cell) == ["interrupted", "await_cancelled"]
    (error,) = [output for output in cell.outputs if isinstance(output, ErrorOutput)]
    assert error.ename == "CancelledError"
    assert "interrupts.py" not in "".join(error.traceback)
    check_next(session, before, {"asyncio", "f", "threading", "g"})


@pytest.mark.parametrize("case", RAISED)
def test_running_code_is_interrupted_and_state_kept(session: Session, case: str) -> None:
    before = state(session)
    cell = session.run(RAISED[case], seconds=ENOUGH)
    assert cell.status is Status.TIMEOUT
    assert kinds(cell) == ["interrupted"]
    (error,) = [output for output in cell.outputs if isinstance(output, ErrorOutput)]
    assert error.ename == "KeyboardInterrupt"
    assert "interrupts.py" not in "".join(error.traceback)
    if case == "child":
        assert not [line for line in map(_command, Path("/proc").glob("[0-9]*")) if b"98765.25" in line]
    check_next(session, before, {"lock"})


@pytest.mark.parametrize("case", KILLED)
def test_what_cannot_be_stopped_is_killed_and_replayed(mortal: Session, case: str) -> None:
    mortal.run("kept = 'set by a good cell'")
    before = state(mortal)
    assert mortal._channel is not None
    kernel, folder = mortal._channel.pid, Path(mortal._channel.connection["ip"]).parent
    cell = mortal.run(KILLED[case], seconds=ENOUGH)
    assert cell.status is Status.KILLED
    assert kinds(cell)[-2:] == ["kernel_restarted", "cells_replayed"]
    assert "replay_differs" not in kinds(cell)
    assert kernel is not None
    assert _gone(kernel)
    assert not folder.exists()
    check_next(mortal, before, {"signal"})


def test_asking_for_input_fails_at_once(session: Session) -> None:
    before = state(session)
    assert session.run("input('name?')", seconds=5).status is Status.ERROR
    check_next(session, before, set())


def test_one_swallowed_cancel_is_not_the_end(session: Session) -> None:
    before = state(session)
    cell = session.run(
        "import asyncio\ntry: await asyncio.sleep(1e9)\nexcept asyncio.CancelledError: await asyncio.sleep(1e9)",
        seconds=ENOUGH,
    )
    assert cell.status is Status.TIMEOUT
    assert kinds(cell) == ["interrupted", "await_cancelled"]
    check_next(session, before, {"asyncio"})


def test_timeouts_one_after_another(mortal: Session) -> None:
    before = state(mortal)
    for code in ("import time\ntime.sleep(9e5)", "await asyncio.sleep(1e9)") * 3:
        assert mortal.run(code, seconds=0.1).status is Status.TIMEOUT
    for code, seconds in (("os._exit(0)", 60), ("sum(range(10**15))", ENOUGH), ("os._exit(0)", 60)):
        assert mortal.run(code, seconds=seconds).status is Status.KILLED
    check_next(mortal, before, set())


@pytest.mark.parametrize("seconds", [0.001, 0.02, 0.1, 0.3])
def test_an_interrupt_among_pictures_shifts_nothing(session: Session, seconds: float) -> None:
    before = state(session)
    session.run("for n in range(10**6): display(image_0.resize((9 + n % 50, 8)))", seconds=seconds)
    assert session.cells[-1].status is Status.TIMEOUT
    after = state(session)
    shown = {image.name for image in session.images} | {"images", "n"}
    assert differing(before, after, but=shown) == {}
    check_next(session, after, set())


def test_a_short_deadline_does_not_cost_the_kernel(session: Session) -> None:
    for _ in range(2):
        cell = session.run("import time\ntime.sleep(1e6)", seconds=0.0)
        assert cell.status is Status.TIMEOUT
        assert kinds(cell)[0] == "interrupted"


def test_numbers_of_cells_outlive_an_interrupt_and_a_kill() -> None:
    with Session() as fresh:
        fresh.run("'one'")
        assert fresh.run("import time\ntime.sleep(9e5)", seconds=0.2).execution_count == 2
        assert fresh.run("'three'").execution_count == 3
        killed = fresh.run("import os\nos._exit(1)")
        assert killed.events[-1].data == {"count": 2, "interrupted": [1]}
        assert text(fresh.run("print(Out[1], Out[3], In[3])")) == "one three 'three'\n"
        assert fresh.cells[-1].execution_count == 4


def test_pictures_are_the_old_ones_where_code_makes_others(picture: Image.Image) -> None:
    with Session([picture], budget=Budget(images=50)) as fresh:
        fresh.run(
            "import os\nfor n in range(3): display(Image.fromarray(np.frombuffer(os.urandom(768), np.uint8).reshape(16, 16, 3)))"
        )
        fresh.run("result = image_1.rotate(90)")
        cell = fresh.run("display(image_2)\nos._exit(1)")
        assert "replay_differs" in kinds(cell)
        held = text(fresh.run("import hashlib\nprint([hashlib.sha256(i.tobytes()).hexdigest() for i in images])"))
        assert held == f"{[_sha(image.to_pil()) for image in fresh.images]}\n"
        assert fresh.run("image_0.rotate(9)").images[0].index == len(fresh.images) - 1


def test_a_blocking_exit_handler_does_not_delay_the_end() -> None:
    with Session() as fresh:
        fresh.run("import atexit, time\natexit.register(time.sleep, 1000)")
        assert fresh._channel is not None
        kernel = fresh._channel.pid
        started = time.monotonic()
    assert time.monotonic() - started < 100
    assert kernel is not None
    assert _gone(kernel)


def test_a_replay_that_hangs_is_given_up(tmp_path: Path) -> None:
    flag = tmp_path / "ran"
    with Session(kernel=OPEN) as fresh:
        fresh.run(
            f"import pathlib, time\nflag = pathlib.Path({str(flag)!r})\nif flag.exists(): time.sleep(1e6)\nflag.touch()"
        )
        with pytest.raises(KernelError, match=r"cell 0 did not run again.*Start a new session"):
            fresh.run("import os\nos._exit(1)")
        assert fresh.cells[-1].status is Status.KILLED
        assert fresh._channel is None
        flag.unlink()
        assert text(fresh.run("flag.exists()")) == "True"


@pytest.mark.slow
def test_a_replay_that_takes_too_long_in_all_is_given_up(tmp_path: Path) -> None:
    flag = tmp_path / "slow"
    with Session(kernel=OPEN) as fresh:
        for _ in range(24):  # each within its own limit, with time to spare
            fresh.run(f"import pathlib, time\nif pathlib.Path({str(flag)!r}).exists(): time.sleep(4)")
        flag.touch()
        with pytest.raises(KernelError, match=r"within \d\d s .60 s and 3 times"):
            fresh.run("import os\nos._exit(1)")
        flag.unlink()
        assert text(fresh.run("6 * 7")) == "42"


def test_a_cancelled_recovery_can_be_taken_up_again(tmp_path: Path) -> None:
    flag = tmp_path / "replaying"

    async def main() -> str:
        async with Session(kernel=OPEN) as fresh:
            await fresh.arun(
                f"import pathlib, time\nflag = pathlib.Path({str(flag)!r})\nif flag.exists(): time.sleep(9)"
            )
            flag.touch()
            running = asyncio.create_task(fresh.arun("import os\nos._exit(1)"))
            await asyncio.sleep(1.5)  # wherever it is by then
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            flag.unlink()
            return text(await fresh.arun("flag.exists()"))

    assert asyncio.run(main()) == "False"


def _command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def _gone(pid: int) -> bool:
    for _ in range(1200):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
            os.kill(pid, 0)
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.05)
    return False
