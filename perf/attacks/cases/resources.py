"""Memory, processes, disk and time: used up, or held on to."""

from __future__ import annotations

import subprocess
import time
from typing import Any

from kernel_agent import Session, Status
from perf.attacks.case import EVERYWHERE, NAMESPACED, SANDBOXED, Result, case
from perf.attacks.cases.processes import still_there
from perf.attacks.scene import LATE_SECONDS, LOW_MEMORY_MB, Scene, marked, marker, recovers

SLACK_MB = 1100
"""What a kernel uses by itself, and may take between two looks of the watchdog."""
TRIED_MB = 2048
"""What an attack tries to use: four times what it is allowed."""
MANY_FILES = 400_000

BOMB = """
import os, time
end, parent = time.time() + 3, os.getpid()
while time.time() < end:
    try: os.fork()
    except OSError: time.sleep(0.05)
if os.getpid() != parent: os.execv("/usr/bin/sleep", ["sleep", mark])
"""

SPREAD = """
import os, time
children = []
for _ in range(16):
    children.append(os.fork())
    if children[-1] == 0:
        held = bytearray()
        try:
            for _ in range(mb // 16): held += os.urandom(1) * (1 << 20)
            time.sleep(3)
        finally: os._exit(0)
for child in children: os.waitpid(child, 0)  # or they would take the memory of the next cell
"""

FILL = """
import os
block = os.urandom(1 << 20)
for folder in folders:
    try:
        os.makedirs(folder, exist_ok=True)
        for number in range(mb // 64):
            with open(f"{folder}/fill-{os.getpid()}-{number}", "wb", 0) as file:
                for _ in range(64): file.write(block)
    except OSError as error: print(folder, error.strerror)
"""

CRUMBS = """
import os, time
end = time.time() + 12
for folder in (os.getcwd(), "/tmp"):
    try:
        os.makedirs(f"{folder}/crumbs", exist_ok=True)
        for number in range(many):
            os.close(os.open(f"{folder}/crumbs/{number}", os.O_CREAT | os.O_WRONLY))
            if number % 1000 == 0 and time.time() > end: break
    except OSError as error: print(folder, error.strerror)
"""


@case("fork bomb", Result.CONTAINED, NAMESPACED, harmful=True, slow=True)
def fork_bomb(scene: Scene) -> str:
    """Its processes stay under 1,000, the host can start programs meanwhile, the session recovers, and all are gone at its end."""
    mark = marker()
    with scene.fresh(low_memory=True) as session:
        with scene.watching() as peaks:
            scene.run(BOMB, session=session, mark=mark, seconds=10)
            subprocess.run(["/bin/true"], check=True, timeout=60)
        problem = recovers(session)
    if peaks.processes > 1000:
        return f"{peaks.processes} processes at once"
    return problem or ("" if scene.comes_to_hold(lambda: not marked(mark)) else "processes are left")


def _memory(scene: Scene, code: str, *, shared: bool = False, **values: Any) -> str:
    with scene.fresh(low_memory=True) as session:
        with scene.watching(session) as peaks:
            cell = scene.run(code, session=session, mb=TRIED_MB, **values)
        used = peaks.shared_mb if shared else peaks.tree_mb
        if not shared and used < 50 and cell.status is Status.OK:  # else it met its limit between two looks
            return f"{used:.0f} MiB were seen: nothing was tested"
        if used > LOW_MEMORY_MB + SLACK_MB:
            return f"{used:.0f} MiB were used; the kernel's limit is {LOW_MEMORY_MB}"
        return recovers(session)


@case("RSS", Result.CONTAINED, SANDBOXED, harmful=True)
def rss(scene: Scene) -> str:
    """Four times the memory allowed is not had, and the session goes on or recovers."""
    return _memory(
        scene, "held = bytearray()\nfor _ in range(mb): held += b'x' * (1 << 20)\nimport time; time.sleep(1)"
    )


@case("mmap", Result.CONTAINED, SANDBOXED, harmful=True)
def mapped(scene: Scene) -> str:
    """The same through anonymous shared maps, which are not on the heap."""
    code = """
import mmap, time
held = []
for _ in range(mb // 64):
    held.append(mmap.mmap(-1, 64 << 20))
    for place in range(0, 64 << 20, 4096): held[-1][place] = 1
time.sleep(1)
"""
    return _memory(scene, code, shared=True)


@case("memfd", Result.CONTAINED, SANDBOXED, harmful=True)
def memfd(scene: Scene) -> str:
    """The same in memory files, which belong to no process."""
    code = """
import os, time
held = []
for _ in range(mb // 64):
    held.append(os.memfd_create("x"))
    for _ in range(64): os.write(held[-1], b"x" * (1 << 20))
time.sleep(1)
"""
    return _memory(scene, code, shared=True)


@case("/dev/shm", Result.CONTAINED, NAMESPACED, harmful=True)
def dev_shm(scene: Scene) -> str:
    """The same in shared memory files."""
    return _memory(scene, FILL, shared=True, folders=["/dev/shm"])


@case("N procs x M MB", Result.CONTAINED, NAMESPACED, harmful=True)
def spread(scene: Scene) -> str:
    """The same spread over 16 processes."""
    return _memory(scene, SPREAD)


@case("/tmp fill", Result.CONTAINED, NAMESPACED, harmful=True, slow=True)
def fill(scene: Scene) -> str:
    """2 GiB into each folder it may write: the host's disk and memory lose less than 1.5 GiB in all, and the session goes on."""
    with scene.fresh(low_memory=True) as session:
        with scene.watching() as peaks:
            folders = ["/tmp", "/tmp/deep", "/var/tmp", ".", "..", "/run", "/dev/shm", "/home/x"]
            scene.run(FILL, session=session, seconds=15, folders=folders, mb=TRIED_MB)
        used = max(0.0, peaks.disk_mb) + max(0.0, peaks.shared_mb)
        return f"{used:.0f} MiB were used" if used > 1536 else recovers(session)


@case("many small files", Result.CONTAINED, NAMESPACED, harmful=True, slow=True)
def crumbs(scene: Scene) -> str:
    """Of 800,000 empty files the host's disk gets under 200,000."""
    with scene.fresh(low_memory=True) as session:
        with scene.watching() as peaks:
            scene.run(CRUMBS, session=session, seconds=15, many=MANY_FILES)
        return f"{peaks.files} files on the host's disk" if peaks.files > 200_000 else recovers(session)


def _recovers_from(scene: Scene, code: str, seconds: float = 1.0) -> str:
    with scene.fresh() as session:
        session.run("kept = 41")
        started = time.monotonic()
        scene.run(code, session=session, seconds=seconds)
        if time.monotonic() - started > seconds + LATE_SECONDS:
            return f"the cell took {time.monotonic() - started:.0f} s"
        session.cells[1:] = []
        text = scene.run("kept + 1", session=session)
        if not any(getattr(output, "text", "") == "42" for output in text.outputs):
            return "the state did not come back"
    return ""


@case("SIGINT-ignoring loop", Result.CONTAINED, EVERYWHERE)
def ignores(scene: Scene) -> str:
    """A loop that ignores interrupts ends at its deadline; the earlier state is back."""
    return _recovers_from(
        scene, "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: time.sleep(0.1)"
    )


@case("loop that catches everything", Result.CONTAINED, EVERYWHERE)
def catches(scene: Scene) -> str:
    """So does one that catches KeyboardInterrupt and goes on."""
    return _recovers_from(scene, "import time\nwhile True:\n    try: time.sleep(1)\n    except BaseException: pass")


@case("GIL-holding loop", Result.CONTAINED, EVERYWHERE)
def holds(scene: Scene) -> str:
    """So does a loop in C that lets no other thread run and looks at no signal."""
    return _recovers_from(scene, "import collections, itertools\ncollections.deque(itertools.repeat(None), maxlen=0)")


@case("stopped process", Result.CONTAINED, EVERYWHERE)
def stopped(scene: Scene) -> str:
    """So does a kernel that stops itself with SIGSTOP."""
    return _recovers_from(scene, "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)")


@case("blocking atexit", Result.CONTAINED, EVERYWHERE)
def at_exit(scene: Scene) -> str:
    """A session whose code refuses to end is closed all the same, and its process is gone."""
    session = Session(kernel=scene.profile.options())
    with session:
        code = (
            "import atexit, signal, time, threading\natexit.register(time.sleep, 1000)\n"
            "for number in range(1, 32):\n    try: signal.signal(number, signal.SIG_IGN)\n    except OSError: pass\n"
            "threading.Thread(target=time.sleep, args=(1000,)).start()"
        )
        session.run(code)
        pids = scene.pids(session)
        started = time.monotonic()
    if time.monotonic() - started > 60:
        return f"closing took {time.monotonic() - started:.0f} s"
    return "" if scene.comes_to_hold(lambda: not still_there(pids)) else "a process is left"


@case("segfault", Result.CONTAINED, EVERYWHERE)
def segfault(scene: Scene) -> str:
    """A crash of the interpreter costs one restart; the earlier state is back."""
    return _recovers_from(scene, "import ctypes; ctypes.string_at(0)")


@case("os._exit(0)", Result.CONTAINED, EVERYWHERE)
def leaves(scene: Scene) -> str:
    """So does leaving with status 0, as if all were well."""
    return _recovers_from(scene, "import os; os._exit(0)")
