"""Branches of a session: by process fork and by replay, which have to agree."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kernel_agent import Budget, KernelOptions, Session, Status
from kernel_agent.blocking import run_blocking
from kernel_agent.errors import KernelError
from kernel_agent.types import CellResult, Event, StreamOutput, TextOutput

pytestmark = [
    pytest.mark.kernels,
    pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux only"),
]

CELLS = (
    "turned = image_0.rotate(90, expand=True)\nturned",
    "numbers = np.arange(12).reshape(3, 4); table = {'a': [1, 2], 'b': (3.5, None)}\nprint('made')",
    "image_1.crop((5, 5, 25, 35))",
    "1 / 0",
    "small = cv2.resize(np.asarray(image_0), (30, 20))\nsmall",
)
KINDS = [pytest.param(fork, id="forked" if fork else "plain") for fork in (False, True)]


def session(*images: Image.Image, fork: bool = False, **options: Any) -> Session:
    """A session whose kernels are ordinary processes, or come from the fork server once it is warm."""
    return Session(
        images,
        kernel=KernelOptions(isolation="none", fork=fork),
        budget=Budget(cell_seconds=60, images=50, output_chars=2000),
        **options,
    )


@pytest.fixture(scope="module", params=KINDS)
def trunk(request: pytest.FixtureRequest) -> Iterator[Session]:
    """One kernel, for the tests that leave it whole; it has run CELLS."""
    if request.param:
        from kernel_agent.provisioners.zygote import report

        with session(fork=True):  # the first kernel of all is an ordinary one
            assert wait_for(lambda: " warm" in report().detail), report().detail
    pixels = np.random.default_rng(3).integers(0, 255, (40, 60, 3), np.uint8)
    with session(Image.fromarray(pixels), fork=request.param) as shared:
        for cell in CELLS:
            shared.run(cell)
        yield shared


@pytest.fixture
def plain(picture: Image.Image) -> Iterator[Session]:
    """A kernel of the test's own."""
    with session(picture) as own:
        yield own


def text(cell: CellResult) -> str:
    return "".join(output.text for output in cell.outputs if isinstance(output, (StreamOutput, TextOutput))).strip()


def forked(branch: Session) -> Event:
    (event,) = [event for event in branch.events if event.kind == "forked"]
    return event


def by_process(trunk: Session, **options: Any) -> Session:
    branch = trunk.fork(**options)
    assert forked(branch).data == {"how": "process", "why": "", "cells": len(trunk.cells)}
    return branch


def pid(of: Session) -> int:
    assert of._channel is not None
    assert of._channel.pid is not None
    return of._channel.pid


def alive(of: Session) -> bool:
    """Whether the host takes the kernel for alive; asked in the loop that it belongs to."""

    async def look() -> bool:
        return of._channel is not None and of._channel.alive

    return run_blocking(look())


def gone(process: int) -> bool:
    """Whether a process is over (one that waits to be reaped is)."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def facts(cell: CellResult) -> object:
    images = [
        (image.index, image.name, image.size, image.pixel_sha256, image.parent, image.affine) for image in cell.images
    ]
    return cell.status, text(cell), cell.execution_count, images


PROBES = (
    "import pickle, hashlib\nprint(numbers.tolist(), table, small.sum(), len(images), [im.size for im in images])",
    "print([hashlib.sha256(im.tobytes()).hexdigest()[:8] for im in images], turned.size, image_2.size)",
    "image_2.resize((40, 60))",
    "display(image_1.crop((0, 0, 12, 12))); image_4.rotate(180)",
    "undefined_name",
    "print('x' * 5000)",
    "import os; print(sorted(os.listdir('.')))",
    "Image.open('nothing.png')",
    "%%time\npass",
)


def test_fork_and_replay_agree(trunk: Session) -> None:
    live, again = by_process(trunk), trunk.fork(cells=len(CELLS))
    try:
        assert forked(again).data["how"] == "replay"
        assert [image.pixel_sha256 for image in live.images] == [image.pixel_sha256 for image in again.images]
        assert [image.name for image in live.images] == [image.name for image in again.images]
        assert len(live.cells) == len(again.cells) == len(CELLS)
        for probe in PROBES[:-1]:
            one, other = live.run(probe), again.run(probe)
            assert facts(one) == facts(other), probe
        assert live.run(PROBES[-1]).status is again.run(PROBES[-1]).status is Status.OK
        assert [image.name for image in live.images] == [f"image_{index}" for index in range(7)]
        assert live.images[4].parent == 2
        assert live.images[6].affine == (-1.0, 0.0, 40.0, 0.0, -1.0, 60.0)
    finally:
        live.close()
        again.close()


def test_generators_files_and_random_states_survive(trunk: Session) -> None:
    trunk.run(
        "import random, tempfile\nrandom.seed(5); np.random.seed(6); own = np.random.default_rng(7)\n"
        "steps = (n * n for n in range(9)); next(steps); double = lambda n: 2 * n\n"
        "kept = open('kept.txt', 'w+'); kept.write('one two three'); kept.seek(4)\n"
        "lost = tempfile.TemporaryFile('w+'); lost.write('four five'); lost.seek(5)"
    )
    draw = "print(next(steps), double(4), kept.read(3), lost.read(2), random.random(), np.random.rand(), own.random())"
    write = "kept.seek(0); kept.write('ONE'); kept.flush(); open('kept.txt').read()"
    branch = by_process(trunk)
    fresh = by_process(trunk, reseed=True)
    try:
        drawn = [text(each.run(draw)) for each in (branch, trunk, fresh)]
        assert drawn[0].startswith("1 8 two fi ")
        assert drawn[0] == drawn[1]
        assert drawn[2].split()[:4] == drawn[0].split()[:4]
        assert drawn[2].split()[4] != drawn[0].split()[4]
        assert drawn[2].split()[5] != drawn[0].split()[5]
        assert text(branch.run(write)) == "'ONE two three'"
        assert text(trunk.run("open('kept.txt').read()")) == "'one two three'"
        assert (
            text(branch.run("os = __import__('os'); os.getcwd() != os.path.realpath('/'), os.path.exists('kept.txt')"))
            == "(True, True)"
        )
    finally:
        branch.close()
        fresh.close()


def test_neither_sees_what_the_other_changes(trunk: Session) -> None:
    trunk.run("shared = np.zeros(4); word = 'before'")
    branch = by_process(trunk)
    try:
        branch.run("shared[:] = 1; word = 'branch'; images[0].putpixel((0, 0), (1, 2, 3)); open('b.txt', 'w').close()")
        trunk.run("shared[0] = 7; open('t.txt', 'w').close()")
        look = "import os; print(shared.tolist(), word, os.path.exists('b.txt'), os.path.exists('t.txt'))"
        assert text(branch.run(look)) == "[1.0, 1.0, 1.0, 1.0] branch True False"
        assert text(trunk.run(look)) == "[7.0, 0.0, 0.0, 0.0] before False True"
        assert text(trunk.run("print(image_0.getpixel((0, 0)) == (1, 2, 3))")) == "False"
    finally:
        branch.close()


def test_counters_go_on_in_both(plain: Session) -> None:
    plain.run("image_0.rotate(90)")
    branch = by_process(plain)
    with branch:
        assert [image.name for image in branch.run("image_1.rotate(90)").images] == ["image_2"]
        assert [image.name for image in plain.run("image_0.resize((9, 9)); display(image_1); image_1").images] == [
            "image_2",
            "image_3",
        ]
        assert branch.run("2").execution_count == plain.run("2").execution_count == 3
        assert len(branch.images) == 3
        assert len(plain.images) == 4


def test_eight_at_once_and_their_branches(trunk: Session) -> None:
    async def one(number: int) -> list[str]:
        said = []
        async with await trunk.afork() as branch:
            said.append(
                text(await branch.arun(f"mine = {number}; display(image_0.resize(({number + 9}, 9))); print(mine)"))
            )
            async with await branch.afork() as twig:
                assert forked(twig).data["how"] == "process"
                said.append(text(await twig.arun("print(mine, images[-1].size)")))
        return said

    async def all_of_them() -> list[list[str]]:
        return await asyncio.gather(*[one(number) for number in range(8)])

    assert run_blocking(all_of_them()) == [[f"{n}", f"{n} ({n + 9}, 9)"] for n in range(8)]


@pytest.mark.parametrize(
    ("cell", "why"),
    [
        (
            "import threading; t = threading.Thread(target=threading.Event().wait, daemon=True, name='mine'); t.start()",
            "mine",
        ),
        ("import _thread, time; _thread.start_new_thread(time.sleep, (60,))", "threads are running"),
        ("import subprocess; p = subprocess.Popen(['sleep', '60'])", "child processes"),
        (
            "import asyncio; t = asyncio.get_running_loop().create_task(asyncio.sleep(60), name='mine')",
            "task is pending",
        ),
        ("import asyncio; t = asyncio.get_running_loop().call_later(60, print)", "timer is pending"),
        ("import os; r, w = os.pipe(); p = os.fdopen(r)", "the pipe or socket p"),
        ("import socket; a, b = socket.socketpair()", "the socket a"),
        ("open('big', 'wb').truncate(100_000_000)", "the working folder holds"),
    ],
)
def test_what_a_fork_would_lose_is_replayed(plain: Session, cell: str, why: str) -> None:
    plain.run("value = 41")
    assert plain.run(cell).status is Status.OK
    with plain.fork() as branch:
        assert forked(branch).data["how"] == "replay"
        assert why in forked(branch).data["why"]
        assert text(branch.run("value + 1")) == "42"
        assert text(plain.run("value + 2")) == "43"


def test_opencv_threads_do_not_hinder(plain: Session) -> None:
    blur = "cv2.GaussianBlur(np.zeros((3000, 3000, 3), np.uint8), (31, 31), 5).max() + 1"
    plain.run(f"cv2.setNumThreads(4); {blur}")
    with by_process(plain) as branch:
        assert text(branch.run(blur)) == text(plain.run(blur)) == "np.uint8(1)"
        assert text(branch.run("cv2.getNumThreads()")) == text(plain.run("cv2.getNumThreads()")) == "4"


def test_children_and_streams_of_the_code_work_in_a_branch(plain: Session) -> None:
    plain.run(
        "import logging, subprocess, sys; log = logging.getLogger('x'); log.addHandler(logging.StreamHandler(sys.stdout))"
    )
    with by_process(plain) as branch:
        by_process(branch).close()
        cell = branch.run(
            "log.error('heard'); print(subprocess.run(['echo', 'child'], capture_output=True, text=True).stdout)"
        )
        assert text(cell) == "heard\nchild"
        assert text(branch.run("import asyncio; await asyncio.sleep(0.01); print('awaited')")) == "awaited"
        assert text(branch.run("plt.plot([1, 2]); plt.show()")).startswith("image_1") or branch.images[-1].index == 1


def test_a_cell_of_a_branch_is_interrupted_alone(plain: Session) -> None:
    with by_process(plain) as branch:
        branch.run("kept = 5")
        assert branch.run("import time; time.sleep(1e6)", seconds=0.3).status is Status.TIMEOUT
        assert text(branch.run("kept")) == "5"
        assert plain.run("1").events == ()


def test_state_after_some_cells(trunk: Session) -> None:
    with trunk.fork(cells=2) as branch:
        assert forked(branch).data["cells"] == 2
        assert [image.name for image in branch.images] == ["image_0", "image_1"]
        assert text(branch.run("print(len(images), 'small' in globals(), numbers.sum())")) == "2 False 66"
    for cells in (-1, len(trunk.cells) + 1):
        with pytest.raises(ValueError, match="no state after"):
            trunk.fork(cells=cells)


def test_rewind(plain: Session) -> None:
    plain.run("n = 1; image_0.rotate(90)")
    plain.run("n = 2; open('later.txt', 'w').close(); image_0.rotate(180)")
    plain.run("n = 3")
    plain.rewind(3)
    assert plain.events == []
    plain.rewind(1)
    assert [event.data for event in plain.events if event.kind == "rewound"] == [{"cells": 1, "taken_back": 2}]
    assert [len(plain.cells), len(plain.images)] == [1, 2]
    assert text(plain.run("import os; print(n, len(images), os.path.exists('later.txt'))")) == "1 2 False"
    assert [image.name for image in plain.run("image_1").images] == ["image_2"]


def test_a_rewind_that_fails_takes_nothing_back(plain: Session, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    plain.run(
        f"import os, time\nif os.path.exists({str(mark)!r}): os._exit(1)\nopen({str(mark)!r}, 'w').close(); n = 1"
    )
    plain.run("n = 2")
    with pytest.raises(KernelError):
        plain.rewind(1)
    assert len(plain.cells) == 2
    mark.unlink()
    assert text(plain.run("n")) == "2"


def test_trunk_closed_first(picture: Image.Image) -> None:
    trunk = session(picture)
    trunk.run("n = 1")
    branch = by_process(trunk)
    twig = by_process(branch)
    processes = [pid(each) for each in (trunk, branch, twig)]
    assert trunk._channel is not None
    folder = Path(trunk._channel.connection["ip"]).parent
    trunk.close()
    branch.close()
    assert text(twig.run("n += 1; n")) == "2"
    assert not any(gone(process) for process in processes)
    assert text(trunk.run("n")) == "1"  # a closed session starts again, in a kernel of its own
    twig.close()
    assert wait_for(lambda: all(gone(process) for process in processes))
    assert not folder.exists()
    assert not gone(pid(trunk))
    trunk.close()


def test_trunk_killed(picture: Image.Image) -> None:
    with session(picture) as trunk:
        trunk.run("n = 1; image_0.rotate(90)")
        with by_process(trunk) as branch:
            branch.run("n += 5; image_1.rotate(90)")
            process = pid(branch)
            os.kill(pid(trunk), signal.SIGKILL)
            assert wait_for(lambda: gone(process) and not alive(branch))
            cell = branch.run("print(n, len(images))")
            assert text(cell) == "6 3"
            assert wait_for(lambda: not alive(trunk))
            assert text(trunk.run("print(n, len(images))")) == "1 2"
            assert "cells_replayed" in [event.kind for event in cell.events]
            with by_process(branch) as twig:
                assert text(twig.run("n")) == "6"


def test_branch_killed(plain: Session) -> None:
    plain.run("n = 1; image_0.rotate(90)")
    with by_process(plain) as branch:
        cell = branch.run(
            "n += 1; import os, signal; display(image_1.rotate(90)); os.kill(os.getpid(), signal.SIGKILL)"
        )
        assert cell.status is Status.KILLED
        assert "kernel_restarted" in [event.kind for event in cell.events]
        shown = len(branch.images)
        assert text(branch.run("print(n, len(images))")) == f"1 {shown}"
        assert text(plain.run("print(n, len(images))")) == "1 2"


def test_ended_branches_are_reaped_and_nothing_else_is(plain: Session) -> None:
    plain.run("import subprocess, os")
    branch = by_process(plain)
    process = pid(branch)
    branch.close()
    assert wait_for(lambda: not Path(f"/proc/{process}").exists())
    with by_process(plain) as other:
        look = "p = subprocess.Popen(['sh', '-c', 'exit 3']); os.kill({}, 9); __import__('time').sleep(0.2); print(p.wait())"
        assert text(plain.run(look.format(pid(other)))) == "3"
        assert text(other.run("1 + 1")) == "2"
    assert text(plain.run("[name for name in os.listdir('..') if name.startswith('work-')]")) == "[]"


def test_fork_waits_for_the_running_cell(plain: Session) -> None:
    async def both() -> str:
        running = asyncio.ensure_future(plain.arun("import time; time.sleep(0.5); n = 8"))
        await asyncio.sleep(0.1)
        async with await plain.afork() as branch:
            assert running.done()
            return text(await branch.arun("n"))

    assert run_blocking(both()) == "8"


def test_a_branch_told_to_exit_ends_without_the_trunks_handlers(plain: Session, tmp_path: Path) -> None:
    mark = tmp_path / "handler"
    plain.run(f"import atexit; atexit.register(lambda: open({str(mark)!r}, 'w').close())")
    with by_process(plain) as branch:
        process = pid(branch)
        branch.run("exit()")
        assert wait_for(lambda: gone(process))
        assert not mark.exists()
    assert text(plain.run("1")) == "1"


@pytest.mark.parametrize("fork", KINDS)
def test_nothing_is_left_when_the_host_is_killed(fork: bool) -> None:
    code = f"""
        import time
        from kernel_agent import KernelOptions, Session
        trunk = Session(kernel=KernelOptions(isolation="none", fork={fork}))
        trunk.run("n = 1")
        {"trunk.close(); time.sleep(3); trunk.run('n = 1')" if fork else ""}
        branches = [trunk.fork() for _ in range(3)]
        branches.append(branches[0].fork())
        branches[1].run("import subprocess; subprocess.Popen(['sleep', '770'])")
        for each in branches:
            assert each.events[-1].data["how"] == "process", each.events
        print(trunk._channel.pid, *[each._channel.pid for each in branches], flush=True)
        time.sleep(600)
    """
    host = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    assert host.stdout is not None
    processes = [int(word) for word in host.stdout.readline().split()]
    assert len(processes) == 5
    host.kill()
    host.wait()
    host.stdout.close()
    assert wait_for(lambda: all(gone(process) for process in processes))


def test_random_numbers_of_the_host_are_not_touched(plain: Session) -> None:
    random.seed(11)
    before = random.getstate()
    by_process(plain).close()
    assert random.getstate() == before
