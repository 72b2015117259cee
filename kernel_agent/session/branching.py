"""A second kernel with the same state, by fork of the live one. Runs inside the kernel.

::

    host                           trunk (this kernel)                      branch (its fork)
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
import ctypes
import fcntl
import json
import os
import random
import shutil
import signal
import stat
import sys
import threading
import time
import traceback
import uuid
import warnings
from pathlib import Path
from typing import Any, NoReturn

from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp
from jupyter_client.session import Session
from zmq.utils import garbage

from kernel_agent.session import branch_checks

PORTS = {"shell": 1, "iopub": 2, "stdin": 3, "control": 4, "hb": 5}
"""What follows the common path in the names of a branch's sockets."""
REST_SECONDS = 2.0
"""How long the fork waits for ipykernel's threads to be at rest."""
_PR_SET_PDEATHSIG = 1
_SET_ONCE = {"parent", "log", "profile_dir", "user_ns"}
_DEAD = ("socket:", "pipe:", "anon_inode:")
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None

_order: dict[str, Any] | None = None
_is_branch = False
_kept: list[Any] = []  # what the old process's threads used: finalizers must not run
_children: dict[int, str] = {}
_outcomes: dict[str, str] = {}


class _Leave(KeyboardInterrupt):
    """Ends the event loop in the new process; `IPKernelApp.start` returns on its base class."""


# ---------------------------------------------------------------------- in the trunk


def branch(text: str) -> None:
    """Fork as soon as this request is over, if that is sound; says (as JSON on stdout) `{"why": ...}`, empty if it is.

    `text` is JSON: `id`; `ip` and `key` of the new connection; `work`, the trunk's working folder, and `new_work`, the
    branch's; `max_work_bytes`; `reseed`, whether `random` and `numpy.random` are seeded anew in the branch.
    """
    order: dict[str, Any] = json.loads(text)
    app: Any = IPKernelApp.instance()  # upstream has no types
    _reap()
    threads = _stop_opencv()
    try:
        why = branch_checks.unsound(app, set(_children)) or _copy_folder(order)
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


def reseed() -> None:
    """Fresh random states for `random` and `numpy.random`; generators that the code made keep theirs."""
    random.seed()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()


def _say(app: Any, answer: dict[str, Any]) -> None:
    stream = app.kernel._stdout  # code may have put another in its place
    stream.write(json.dumps(answer) + "\n")
    stream.flush()


def _copy_folder(order: dict[str, Any]) -> str:
    """The branch's copy of the working folder, at this moment. Returns why there can be none."""
    work, new = Path(order["work"]), Path(order["new_work"])
    size = sum(file.lstat().st_size for file in work.rglob("*"))
    if size > order["max_work_bytes"]:
        return f"the working folder holds {size} bytes, over {order['max_work_bytes']}"
    try:
        shutil.copytree(work, new, symlinks=True)
    except (OSError, shutil.Error) as error:
        shutil.rmtree(new, ignore_errors=True)
        return f"the working folder cannot be copied: {error}"
    return ""


def _fork_at_rest(app: Any, order: dict[str, Any], opencv_threads: int | None, until: float) -> None:
    """Fork, or come back in a millisecond. Runs between requests."""
    global _order, _is_branch
    trunk, pid, why = os.getpid(), -1, ""
    state = random.getstate()  # Python seeds it anew in every fork
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1.0)  # nobody else runs between the look and the fork
    time.sleep(0)
    try:
        why = branch_checks.not_at_rest(app)
        if not why:
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
        try:
            _become(app, order, trunk, state)
            _start_opencv(opencv_threads)
        except BaseException:
            _fail()
        _order, _is_branch = order, True
        raise _Leave
    _start_opencv(opencv_threads)
    _outcomes[order["id"]] = why
    if pid > 0:
        _children[pid] = order["id"]
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
        _outcomes[_children.pop(pid)] = f"the branch ended with status {status}"


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


# ---------------------------------------------------------------------- in the branch, on the old stack


def _become(app: Any, order: dict[str, Any], trunk: int, state: Any) -> None:
    """Part from the trunk: session, life, descriptors, folder, random state."""
    os.setsid()
    app.poller = None
    app.parent_handle = trunk
    if _libc is None or _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0):
        app.init_poller()
    if os.getppid() != trunk:  # it died before the line above
        os._exit(1)
    signal.set_wakeup_fd(-1)
    os.environ["JPY_PARENT_PID"] = str(trunk)
    _children.clear()
    _outcomes.clear()
    random.setstate(state)
    if order["reseed"]:
        reseed()
    _own_descriptors(Path(order["work"]), Path(order["new_work"]))
    folder = _moved(Path.cwd(), Path(order["work"]), Path(order["new_work"]))
    os.chdir(folder or Path.cwd())


def _own_descriptors(work: Path, new_work: Path) -> None:
    """No descriptor is shared with the trunk: sockets and the like become /dev/null, files are opened once more.

    A file in the working folder becomes its copy. One that cannot be opened again stays shared, offset and all.
    """
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for entry in list(Path("/proc/self/fd").iterdir()):
        number = int(entry.name)
        if number <= 2 or number == nothing:
            continue
        try:
            target, mode = str(entry.readlink()), os.fstat(number).st_mode
        except OSError:  # the descriptor of the listing itself
            continue
        if target.startswith(_DEAD):
            os.dup2(nothing, number, inheritable=False)
        elif stat.S_ISREG(mode):
            with contextlib.suppress(OSError):
                flags = fcntl.fcntl(number, fcntl.F_GETFL) & ~(os.O_CREAT | os.O_EXCL | os.O_TRUNC)
                copy = _moved(Path(target), work, new_work)
                path = str(copy) if copy is not None and copy.exists() else str(entry)
                again = os.open(path, flags | os.O_CLOEXEC)
                os.lseek(again, os.lseek(number, 0, os.SEEK_CUR), os.SEEK_SET)
                os.dup2(again, number, inheritable=os.get_inheritable(number))
                os.close(again)
    os.close(nothing)


def _moved(path: Path, work: Path, new_work: Path) -> Path | None:
    """The same path in the branch's copy of the working folder; None outside."""
    return new_work / path.relative_to(work) if path.is_relative_to(work) else None


def _fail() -> NoReturn:
    """Half a kernel is none: the host hears the status, the log has the rest."""
    with contextlib.suppress(OSError):
        os.write(2, traceback.format_exc().encode("utf-8", "replace"))
    os._exit(1)


# ---------------------------------------------------------------------- in the branch, on a clean stack


def reopen(app: Any) -> bool:
    """In a process that has just become a branch: make it a kernel on its own sockets. False anywhere else."""
    global _order
    order, _order = _order, None
    if order is None:
        return False
    try:
        _open(app, order)
    except BaseException:
        _fail()
    return True


def end(app: Any) -> None:
    """The end of a branch that was told to stop: what was said is sent, no exit handler runs. Returns in a trunk."""
    if not _is_branch:
        return
    try:
        app.control_thread.stop()  # first: upstream ends the iopub thread first, for which this one may wait for 10 s
        app.control_thread.join(5)
        app.close()
    finally:
        os._exit(0)


def _open(app: Any, order: dict[str, Any]) -> None:
    """What `IPKernelApp.initialize` does for a new process, less what the trunk has done already."""
    kernel = app.kernel
    _kept.append((dict(vars(app)), dict(app._trait_values), dict(vars(kernel)), dict(kernel._trait_values)))
    _kept.append(asyncio.get_event_loop_policy().get_event_loop())
    asyncio.set_event_loop(asyncio.new_event_loop())
    _kept.append(dict(vars(garbage.gc)))
    vars(garbage.gc).update(thread=None, pid=None, refs={}, _context=None, _push=None, _push_mutex=None)
    garbage.gc._lock = threading.Lock()
    app.session = Session(parent=app, key=order["key"].encode())
    app.transport, app.ip, app.connection_file = "ipc", order["ip"], f"{order['ip']}.json"
    app.context = None
    for channel, port in PORTS.items():
        setattr(app, f"{channel}_port", port)
    app._ports = dict(PORTS)
    app.init_sockets()
    app.init_heartbeat()
    for stream in {id(item): item for item in (sys.stdout, sys.stderr, kernel._stdout, kernel._stderr)}.values():
        _adopt_stream(app, stream)
    app.displayhook.session, app.displayhook.pub_socket = app.session, app.iopub_socket
    if hasattr(kernel, "_main_asyncio_lock"):
        kernel._main_asyncio_lock = asyncio.Lock()
    kernel._aborting = False
    app.kernel_class = _Again
    app.init_kernel()


def _adopt_stream(app: Any, stream: Any) -> None:
    """The same stream object, which loggers and the like may hold, now of this process."""
    from ipykernel.iostream import OutStream

    if not isinstance(stream, OutStream):
        return
    adopted: Any = stream
    adopted.session, adopted.pub_thread = app.session, app.iopub_thread
    adopted._io_loop, adopted._master_pid = app.iopub_thread.io_loop, os.getpid()
    adopted._buffer_lock = threading.RLock()
    adopted._flush_pending = adopted._subprocess_flush_pending = False
    adopted._rotate_buffers()


class _Again(IPythonKernel):
    """Stands for the kernel class when upstream's `init_kernel` asks for its one kernel the second time."""

    @classmethod
    def instance(cls, *args: Any, **kwargs: Any) -> Any:
        """The kernel there is, with new connections."""
        kernel: Any = IPythonKernel.instance()
        connect(kernel, kwargs)
        return kernel


def connect(kernel: Any, connections: dict[str, Any]) -> None:
    """What `IPythonKernel.__init__` does with its connections, for a kernel object made before them."""
    for name, value in connections.items():
        if name not in _SET_ONCE:
            setattr(kernel, name, value)
    kernel.ident = str(uuid.uuid4())
    shell = kernel.shell
    for publisher in (shell.displayhook, shell.display_pub):
        publisher.session, publisher.pub_socket = kernel.session, kernel.iopub_socket
    shell.displayhook.topic = kernel._topic("execute_result")
    if hasattr(kernel, "debugger"):
        debugger = kernel.debugger
        debugger.session, debugger.shell_socket = kernel.session, kernel.debug_shell_socket
        client = type(debugger.debugpy_client)
        debugger.debugpy_client = client(kernel.log, kernel.debugpy_stream, debugger._handle_event)
