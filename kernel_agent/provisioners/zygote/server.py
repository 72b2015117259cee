"""The warm parent: `python -m kernel_agent.provisioners.zygote.server DESCRIPTOR HOST_PID`.

Messages are JSON, one a packet of a socket pair. In: {"id", "file", "cwd", "env", "plan"} with descriptors for 0, 1 and 2;
`plan` is a sandbox's (`sandbox.plan.Plan`) or null. Out: {"ready"} once; {"id", "pid"} when there is a process; {"id", "bound"}
from the new kernel itself, once its sockets are there; {"id", "error"}; {"pid", "exit"} with a status as subprocess gives
it, when a process is gone.

A kernel with namespaces of its own is the child of a process between, which makes them, says its id and goes; the kernel is
then this process's child by adoption.

Guarantees: one thread, so that a fork copies no lock held by another; every kernel is waited for at once, and what is left of
its process group is killed before its id is free again; without its host it kills all kernels and ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import select
import signal
import socket
import sys
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from kernel_agent.provisioners.sandbox.enter import enter, seal
from kernel_agent.provisioners.sandbox.namespaces import adopt_orphans
from kernel_agent.provisioners.sandbox.plan import Plan

if TYPE_CHECKING:
    from kernel_agent.provisioners.zygote.warm_app import WarmApp

PACKET_BYTES = 1 << 20
STDIO = 3
"""Descriptors that come with an order."""
TRY_SECONDS = 20
LOOK_MS = 1000
"""How often it looks whether its host is still there; a closed socket tells it at once."""
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def main() -> None:
    """Warm up, then fork on demand; each child goes on from here as a kernel until that is told to stop."""
    link, host = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.disable()
    before = dict(os.environ)
    from kernel_agent.provisioners.zygote.warm import fill_gaps, warm_up

    app: Any = warm_up()  # upstream has no types
    imported = {name: value for name, value in os.environ.items() if before.get(name) != value and name != "IPYTHONDIR"}
    gc.collect()
    fill_gaps()
    gc.freeze()  # else a collection in a kernel would touch, and so copy, every object
    _check(link)
    _try(app, link)
    order = _serve(link, host)
    plan = Plan.from_json(order["plan"]) if order["plan"] else None
    order["env"] |= imported  # what libraries set on import they would have set in the kernel

    def tell(**fact: Any) -> None:
        link.send(json.dumps({"id": order["id"], **fact}).encode())

    try:
        if plan is None:
            tell(pid=os.getpid())
            os.chdir(order["cwd"])
        else:
            enter(plan, keep=[link.fileno()], born=lambda pid: tell(pid=pid))
        _move_in(order)

        def bound() -> None:  # said late: a client that connects to sockets that are there already need not try again
            tell(bound=True)
            link.close()

        app.open(order["file"], bound)
        if plan is not None:
            seal(plan)
    except Exception as error:
        with contextlib.suppress(OSError):  # closed where it came late
            tell(error=f"{type(error).__name__}: {error}")
        raise
    app.start()


def _check(link: socket.socket) -> None:
    """Refuse to fork what would not be sound: a thread may hold a lock, an open file would be shared by all kernels."""
    if threads := sum(1 for _ in Path("/proc/self/task").iterdir()) - 1:
        sys.exit(f"A library left {threads} threads running.")
    expected = {0, 1, 2, link.fileno()}
    found = {int(entry.name): _target(entry) for entry in Path("/proc/self/fd").iterdir()}
    if left := sorted(target for number, target in found.items() if number not in expected and "/fd" not in target):
        sys.exit(f"A library left files open: {', '.join(left)}.")


def _target(entry: Path) -> str:
    try:
        return str(entry.readlink())
    except OSError:  # the descriptor of the listing itself
        return "/fd"


def _try(app: WarmApp, link: socket.socket) -> None:
    """Fork one kernel for nobody, up to its last step: versions of ipykernel that this does not fit are found here."""
    with tempfile.TemporaryDirectory(prefix="cv-") as folder:
        if (pid := os.fork()) == 0:
            try:
                link.close()
                os.environ["IPYTHONDIR"] = f"{folder}/ipython"
                file = Path(folder) / "kernel.json"
                file.write_text(json.dumps({"transport": "ipc", "ip": f"{folder}/k", "key": "trial"}))
                signal.alarm(TRY_SECONDS)
                app.open(str(file), lambda: None)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        if status := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
            sys.exit(f"A trial kernel ended with status {status}.")


def _serve(link: socket.socket, host: int) -> dict[str, Any]:
    """Fork for every order; returns, in the child only, what was ordered."""
    between: dict[int, int] = {}  # process ids, and of which order
    woken, wake = socket.socketpair()
    for end in (woken, wake):
        end.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    poll = select.poll()
    poll.register(link, select.POLLIN)
    poll.register(woken, select.POLLIN)
    adopt_orphans()
    _send(link, {"ready": os.getpid()})
    while True:
        ready = {fd for fd, _ in poll.poll(LOOK_MS)}
        if os.getppid() != host:
            _end()
        if woken.fileno() in ready:
            with contextlib.suppress(BlockingIOError):
                woken.recv(4096)
            _reap(link, between)
        if link.fileno() not in ready:
            continue
        try:
            data, descriptors, _, _ = socket.recv_fds(link, PACKET_BYTES, STDIO)
        except OSError:
            data, descriptors = b"", []
        if not data:
            _end()
        order: dict[str, Any] = json.loads(data)
        parent = os.getpid()
        try:
            if len(descriptors) < STDIO:
                raise OSError("the fork server has no file descriptors left")
            pid = os.fork()
        except OSError as error:
            _send(link, {"id": order["id"], "error": str(error)})
            pid = -1
        if pid == 0:
            _become(descriptors, parent, (woken, wake))
            return order
        if pid > 0 and order["plan"] and Plan.from_json(order["plan"]).namespaces:
            between[pid] = order["id"]
        for descriptor in descriptors:
            os.close(descriptor)


def _become(descriptors: list[int], parent: int, others: tuple[socket.socket, ...]) -> None:
    """Turn the fresh child into a process like one the host would have started itself."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setsid()
    _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)
    for target, descriptor in enumerate(descriptors):
        os.dup2(descriptor, target)
        os.close(descriptor)
    for end in others:
        end.close()


def _move_in(order: dict[str, Any]) -> None:
    """The environment and the random state of the new kernel."""
    os.environ.clear()
    os.environ.update({"JPY_PARENT_PID": str(os.getppid())} | order["env"])
    tempfile.tempdir = None  # found out before the fork
    gc.enable()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # `random` does so by itself


def _reap(link: socket.socket, between: dict[int, int]) -> None:
    """Tell the host of every process that ended, after killing what is left of its group.

    In the group of a process `between` its kernel may still be, which makes one of its own a moment later.
    """
    with contextlib.suppress(ChildProcessError):
        while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if ended.si_pid in between:
                number, status = between.pop(ended.si_pid), os.waitpid(ended.si_pid, 0)[1]
                if status:
                    _send(link, {"id": number, "error": f"it died at birth: {os.waitstatus_to_exitcode(status)}"})
                continue
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(ended.si_pid, signal.SIGKILL)
            exited = ended.si_code == os.CLD_EXITED
            _send(link, {"pid": ended.si_pid, "exit": ended.si_status if exited else -ended.si_status})
            os.waitpid(ended.si_pid, 0)


def _send(link: socket.socket, message: dict[str, Any]) -> None:
    try:
        link.send(json.dumps(message).encode())
    except OSError:
        _end()


def _end() -> NoReturn:
    """The host is gone: nothing of ours stays."""
    for pid in map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()):
        for kill in (os.killpg, os.kill):  # a kernel that is just being born has no group yet
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(pid, signal.SIGKILL)
    os._exit(0)


if __name__ == "__main__":
    main()
