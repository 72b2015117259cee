"""A second kernel with the same state, by fork of the live one. Runs inside the kernel.

::

    host (forking.py)              trunk (this kernel)                      branch (its fork, branch_process.py)
    a request runs branch(order)   sound? else says why; folder copied
    waits for the new sockets      idle and its threads at rest: fork       own session, files, loop, sockets, threads
    connects with the new key      goes on                                  goes on as a kernel

The fork is made between two requests, so no cell is under way in either process, and the branch's stack is unwound to
`KernelApp.start`: branches of branches do not grow it. What is ipykernel's and does not survive a fork (ZMQ, event
loops, threads) is never touched again in the branch: its descriptors are dead, the objects are kept.

Guarantees: a branch has every object of the trunk, generators, open files and random states too; afterwards neither
sees what the other changes in memory, in the offsets of its open files or in its working folder. No lock is held by
another thread at the moment of the fork (`branch_checks`). A branch dies with its trunk, and with the trunk's main thread.
Branches are waited for one by one, so children that the code started are its own to wait for (but `os.wait()` may
meet a branch).

Not covered: files outside the working folder and shared memory are the same for both; exit handlers do not run in a
branch; sockets and pipes that the code hides deeper than in its top-level variables are dead in a branch. The trunk
knows the branch's key: they are no secret from each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from ipykernel.kernelapp import IPKernelApp

from kernel_agent.session import branch_checks, branch_process

REST_SECONDS = 2.0
"""How long the fork waits for ipykernel's threads to be at rest."""

_children: dict[int, dict[str, Any]] = {}  # the orders of the branches that run
_outcomes: dict[str, str] = {}
_abandoned: set[str] = set()


def branch(text: str) -> None:
    """Fork as soon as this request is over, if that is sound; says (as JSON on stdout) `{"why": ...}`, empty if it is.

    `text` is JSON: `id`; `ip` and `key` of the new connection; `max_work_bytes`, the largest working folder to be copied;
    `reseed`, whether `random` and `numpy.random` are seeded anew in the branch.
    """
    order: dict[str, Any] = json.loads(text)
    app: Any = IPKernelApp.instance()  # upstream has no types
    _reap()
    threads = _stop_opencv()
    try:
        why = branch_checks.unsound(app, set(_children)) or _copy_folder(app, order)
    except BaseException:
        _start_opencv(threads)
        raise
    if why:
        _start_opencv(threads)
    else:
        loop = asyncio.get_running_loop()
        loop.call_soon(_fork_at_rest, app, order, threads, time.monotonic() + REST_SECONDS)
    _say(app, {"why": why})


def outcome(number: str) -> None:
    """Say what became of a fork: `{"why": ...}`, None while it is not made, empty when it is."""
    _reap()
    _say(IPKernelApp.instance(), {"why": _outcomes.get(number)})


def abandon(number: str) -> None:
    """End the branch, or make none: nobody waits for it any more."""
    _abandoned.add(number)
    for pid in [pid for pid, order in _children.items() if order["id"] == number]:
        os.kill(pid, signal.SIGKILL)
    outcome(number)


def _say(app: Any, answer: dict[str, Any]) -> None:
    stream = app.kernel._stdout  # code may have put another in its place
    stream.write(json.dumps(answer) + "\n")
    stream.flush()


def _copy_folder(app: Any, order: dict[str, Any]) -> str:
    """Copy the working folder, as it is now, to beside it or, where that is not allowed, to among the temporary files.

    Returns why there can be no copy; tells the order both places.
    """
    work = Path(app.kernel.shell.starting_dir)
    try:
        size = sum(file.lstat().st_size for file in work.rglob("*"))
        if size > order["max_work_bytes"]:
            return f"the working folder holds {size} bytes, over {order['max_work_bytes']}"
        try:
            new = tempfile.mkdtemp(prefix="work-", dir=work.parent)
        except PermissionError:
            new = tempfile.mkdtemp(prefix="work-")
        order |= {"work": str(work), "new_work": new}
        shutil.copytree(work, new, symlinks=True, dirs_exist_ok=True)
    except (OSError, shutil.Error) as error:
        shutil.rmtree(order.get("new_work", ""), ignore_errors=True)
        return f"the working folder cannot be copied: {error}"
    return ""


def _fork_at_rest(app: Any, order: dict[str, Any], opencv_threads: int | None, until: float) -> None:
    """Fork, or come back in a millisecond. Runs between requests."""
    trunk, pid, why = os.getpid(), -1, ""
    state = random.getstate()  # Python seeds it anew in every fork
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1.0)  # nobody else runs between the look and the fork
    time.sleep(0)
    descriptors: dict[int, str] = {}
    try:
        why = branch_checks.not_at_rest(app)
        if order["id"] in _abandoned:
            why, until = "it was given up", 0.0
        if not why:
            descriptors = branch_process.open_descriptors()
            with warnings.catch_warnings():  # Python 3.12 warns of threads, which have just been looked at
                warnings.simplefilter("ignore", DeprecationWarning)
                pid = os.fork()
    except OSError as error:
        why, until = f"the system does not fork: {error}", 0.0
    finally:
        sys.setswitchinterval(interval)
    if pid < 0 and time.monotonic() < until:
        asyncio.get_running_loop().call_later(0.001, _fork_at_rest, app, order, opencv_threads, until)
        return
    if pid == 0:
        _children.clear()
        _outcomes.clear()
        _start_opencv(opencv_threads)
        branch_process.become(app, order, trunk, state, descriptors)
    _start_opencv(opencv_threads)
    _outcomes[order["id"]] = why
    if pid > 0:
        _children[pid] = order
        _watch(pid)
    else:
        shutil.rmtree(order["new_work"], ignore_errors=True)


def _watch(pid: int) -> None:
    """Wait for a branch's end when the event loop is free; meanwhile its id cannot be another's."""
    loop = asyncio.get_running_loop()
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:  # an old system, or not allowed here

        def look() -> None:
            _reap()
            if pid in _children:
                loop.call_later(1.0, look)

        loop.call_later(1.0, look)
        return

    def ended() -> None:
        loop.remove_reader(descriptor)
        os.close(descriptor)
        _reap()

    loop.add_reader(descriptor, ended)


def _reap() -> None:
    """Wait for the branches that ended, and for no other child; kill what is left of their process groups first."""
    for pid in list(_children):
        try:
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                continue
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        except ChildProcessError:  # the code has waited for every child
            status = -signal.SIGKILL
        order = _children.pop(pid)
        _outcomes[order["id"]] = f"the branch ended with status {status}"
        shutil.rmtree(order["new_work"], ignore_errors=True)


def _stop_opencv() -> int | None:
    """End OpenCV's pool of threads, which does not survive a fork; returns how many it may have."""
    cv2: Any = sys.modules.get("cv2")
    if cv2 is None or not hasattr(cv2, "setNumThreads"):
        return None
    threads = int(cv2.getNumThreads())
    cv2.setNumThreads(1)
    return threads


def _start_opencv(threads: int | None) -> None:
    if threads is not None:
        sys.modules["cv2"].setNumThreads(threads)
