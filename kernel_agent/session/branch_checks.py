"""Whether a kernel may be forked here and now. Runs inside the kernel.

Guarantees: `unsound` is empty only where no thread, child process, asyncio task or timer, socket or pipe of the code's
own is known; `not_at_rest` is empty only where no cell is under way and every thread of ipykernel's waits in its selector,
where it holds no lock. Not seen: sockets and pipes that are not among the top-level variables, memory mapped as shared.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import selectors
import socket
import stat
import sys
import threading
from collections.abc import Set
from pathlib import Path
from typing import Any

import ipykernel
import tornado
from zmq.utils import garbage

_OURS = tuple(str(Path(str(package.__file__)).parent) + os.sep for package in (ipykernel, tornado))
_ZMQ_THREADS = ("ZMQbg/",)
_A_CONTEXT = 2  # a reaper and an I/O thread
_SPARE_DESCRIPTORS = 100  # what a branch needs of its own, and some


def unsound(app: Any, branches: Set[int]) -> str:
    """Why a fork of this process would not be a copy of it; empty where it would. `branches` are known children."""
    if sys.platform != "linux":
        return "kernels are forked on Linux only"
    if app.kernel.eventloop is not None:
        return "the event loop of a user interface is running"
    return _threads(app) or _tasks() or _child_processes(branches) or _descriptors(app.kernel.shell.user_ns)


def not_at_rest(app: Any) -> str:
    """Why the fork has to wait; call it with nothing between the call and the fork."""
    kernel = app.kernel
    lock = getattr(kernel, "_main_asyncio_lock", None)
    if kernel.shell.builtin_trap._nested_level or (lock is not None and lock.locked()):
        return "a cell is under way"
    waits = selectors.DefaultSelector.select.__code__
    free = {app.heartbeat, app.poller, garbage.gc.thread}  # they hold no lock at any time
    frames = sys._current_frames()
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        if thread is threading.main_thread() or thread in free or (frame is not None and frame.f_code is waits):
            continue
        return f"ipykernel's thread {thread.name} is busy"
    return ""


def _threads(app: Any) -> str:
    """Threads that are not ipykernel's or ZMQ's: one may hold a lock, and would be missing in the branch."""
    own = {threading.main_thread(), app.heartbeat, app.poller, app.control_thread, app.iopub_thread.thread}
    own.add(garbage.gc.thread)  # pyzmq's, from the first large message on
    channel = getattr(app, "shell_channel_thread", None)
    if channel is not None:
        own.add(channel)
        if channel._manager is not None:
            own |= set(channel._manager._cache.values())
    threads = threading.enumerate()
    if others := sorted(f"{thread.name} ({type(thread).__name__})" for thread in threads if thread not in own):
        return f"threads are running: {', '.join(others[:5])}"
    known = {
        os.getpid(),
        *(thread.native_id for thread in threads),
    }  # Python does not renew the main thread's in a fork
    names: list[str] = []
    for task in Path("/proc/self/task").iterdir():
        if int(task.name) not in known:
            with contextlib.suppress(OSError):  # it has just ended
                names.append((task / "comm").read_text().strip())
    foreign = [name for name in names if not name.startswith(_ZMQ_THREADS)]
    contexts = 2 if garbage.gc._context is None else 3  # the kernel's, its heartbeat's
    if foreign or len(names) != _A_CONTEXT * contexts:
        return f"a library's own threads are running: {', '.join(sorted(foreign or names)[:8])}"
    return ""


def _tasks() -> str:
    """Tasks and timers of the code's on the kernel's event loop: they would be lost."""
    loop: Any = asyncio.get_running_loop()
    current = asyncio.current_task()
    for task in asyncio.all_tasks(loop):
        coroutine: Any = task.get_coro()
        code = getattr(coroutine, "cr_code", None) or getattr(coroutine, "gi_code", None)
        if task is not current and (code is None or not code.co_filename.startswith(_OURS)):
            return f"an asyncio task is pending: {getattr(coroutine, '__qualname__', coroutine)}"
    for handle in getattr(loop, "_scheduled", ()):
        module = str(getattr(handle._callback, "__module__", ""))
        if not handle.cancelled() and not module.startswith(("ipykernel", "tornado", "asyncio", "kernel_agent", "zmq")):
            return f"an asyncio timer is pending: {getattr(handle._callback, '__qualname__', handle._callback)}"
    return ""


def _child_processes(branches: Set[int]) -> str:
    """Children that the code started and has not waited for: a branch could not."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            found |= {int(pid) for pid in (task / "children").read_text().split()}
        except OSError:
            return "the system does not tell which child processes there are"
    others = sorted(found - branches)
    return f"child processes are running or not waited for: {others[:5]}" if others else ""


def _descriptors(namespace: dict[str, Any]) -> str:
    """Sockets and pipes in top-level variables, which a branch could not share; too few free descriptors."""
    for name, value in list(namespace.items()):
        if isinstance(value, socket.socket) and value.fileno() >= 0:
            return f"the socket {name} is open"
        if hasattr(type(value), "fileno") and not isinstance(value, type):
            try:
                mode = os.fstat(value.fileno()).st_mode
            except Exception:  # closed, or no descriptor behind it: anything may be raised by code of the user's
                continue
            if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
                return f"the pipe or socket {name} is open"
    used, limit = sum(1 for _ in Path("/proc/self/fd").iterdir()), resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit != resource.RLIM_INFINITY and used + _SPARE_DESCRIPTORS > limit:
        return f"{used} of {limit} file descriptors are in use"
    return ""
