"""How a fork of a running kernel becomes a kernel of its own. Runs inside the kernel, in the new process.

Upstream's own methods make the new session, sockets and threads; what is kept is the kernel object with its shell, its
namespace and its hooks, and the stream objects, which loggers and the like may hold.

Guarantees: nothing of the old event loops, threads and ZMQ objects is used or finalized here; a process that cannot
become a whole kernel ends at once. Works with ipykernel 6.31 and 7.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import os
import random
import signal
import stat
import sys
import threading
import traceback
import uuid
from pathlib import Path
from typing import Any, NoReturn

from ipykernel.ipkernel import IPythonKernel
from zmq.utils import garbage

PORTS = {"shell": 1, "iopub": 2, "stdin": 3, "control": 4, "hb": 5}
"""What follows the common path in the names of a branch's sockets."""
_PR_SET_PDEATHSIG = 1
_SET_ONCE = {"parent", "log", "profile_dir", "user_ns"}
_DEAD = ("socket:", "pipe:", "anon_inode:")
_FLAGS = os.O_RDONLY | os.O_WRONLY | os.O_RDWR | os.O_APPEND | os.O_SYNC | os.O_NONBLOCK  # of opening again
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None

_order: dict[str, Any] | None = None
_is_branch = False
_kept: list[Any] = []  # what the old process's threads used: finalizers must not run


class _Leave(KeyboardInterrupt):
    """Ends the event loop in the new process; `IPKernelApp.start` returns on its base class."""


def become(app: Any, order: dict[str, Any], trunk: int, state: Any) -> NoReturn:
    """Part from the trunk (session, life, descriptors, folder, random state), then leave the old event loop for good.

    `trunk` is its process id, `state` its state of `random`, which Python seeds anew in every fork.
    """
    global _order, _is_branch
    try:
        _part(app, order, trunk)
    except BaseException:
        _fail()
    _order, _is_branch = order | {"random": state}, True
    raise _Leave


def reseed() -> None:
    """Fresh random states for `random` and `numpy.random`; generators that the code made keep theirs."""
    random.seed()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()


def _part(app: Any, order: dict[str, Any], trunk: int) -> None:
    os.setsid()
    app.poller = None
    app.parent_handle = trunk
    if _libc is None or _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0):
        app.init_poller()
    if os.getppid() != trunk:  # it died before the line above
        os._exit(1)
    signal.set_wakeup_fd(-1)
    os.environ["JPY_PARENT_PID"] = str(trunk)
    work, new_work = Path(order["work"]), Path(order["new_work"])
    _own_descriptors(work, new_work)
    app.kernel.shell.starting_dir = str(new_work)
    with contextlib.suppress(FileNotFoundError):  # the code has removed the folder it was in
        os.chdir(_moved(Path.cwd(), work, new_work) or Path.cwd())


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
                flags = fcntl.fcntl(number, fcntl.F_GETFL) & _FLAGS
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


def reopen(app: Any) -> bool:
    """In a process that has just become a branch: make it a kernel on its own sockets. False anywhere else."""
    global _order
    order, _order = _order, None
    if order is None:
        return False
    try:
        _open(app, order)
        random.setstate(order["random"])  # late: pyzmq draws a random port
        if order["reseed"]:
            reseed()
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
    app.session = type(app.session)(parent=app, key=order["key"].encode())
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
    if hasattr(kernel.shell, "enable_tip"):
        kernel.shell.enable_tip = False  # it is drawn with the code's random state when the host says hello
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
