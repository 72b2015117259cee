"""The warm parent: `python -m kernel_agent.provisioners.zygote.server DESCRIPTOR HOST_PID`.

Messages are JSON, one a packet of a socket pair. In: {"id", "file", "cwd", "env"} with descriptors for 0, 1 and 2. Out:
{"ready"} once; {"id", "pid"} from a new kernel itself, once its sockets are there; {"id", "error"}; {"id", "exit"} with a
status as subprocess gives it, when a kernel's process is gone.

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
    order["env"] |= imported  # what libraries set on import they would have set in the kernel
    _enter(order)

    def bound() -> None:  # said late: a client that connects to sockets that are there already need not try again
        link.send(json.dumps({"id": order["id"], "pid": os.getpid()}).encode())
        link.close()

    app.open(order["file"], bound)
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
    kernels: dict[int, int] = {}
    woken, wake = socket.socketpair()
    for end in (woken, wake):
        end.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    poll = select.poll()
    poll.register(link, select.POLLIN)
    poll.register(woken, select.POLLIN)
    _send(link, kernels, {"ready": os.getpid()})
    while True:
        ready = {fd for fd, _ in poll.poll(LOOK_MS)}
        if os.getppid() != host:
            _end(kernels)
        if woken.fileno() in ready:
            with contextlib.suppress(BlockingIOError):
                woken.recv(4096)
            _reap(link, kernels)
        if link.fileno() not in ready:
            continue
        try:
            data, descriptors, _, _ = socket.recv_fds(link, PACKET_BYTES, STDIO)
        except OSError:
            data, descriptors = b"", []
        if not data:
            _end(kernels)
        order: dict[str, Any] = json.loads(data)
        parent = os.getpid()
        try:
            if len(descriptors) < STDIO:
                raise OSError("the fork server has no file descriptors left")
            pid = os.fork()
        except OSError as error:
            _send(link, kernels, {"id": order["id"], "error": str(error)})
            pid = -1
        if pid == 0:
            _become(descriptors, parent, (woken, wake))
            return order
        if pid > 0:
            kernels[pid] = order["id"]
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


def _enter(order: dict[str, Any]) -> None:
    """The environment, the folder and the random state of the new kernel."""
    os.environ.clear()
    os.environ.update(order["env"], JPY_PARENT_PID=str(os.getppid()))
    os.chdir(order["cwd"])
    gc.enable()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # `random` does so by itself


def _reap(link: socket.socket, kernels: dict[int, int]) -> None:
    """Tell the host of every kernel that ended, after killing what is left of its group."""
    for pid in list(kernels):
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            continue
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        _send(link, kernels, {"id": kernels.pop(pid), "exit": status})


def _send(link: socket.socket, kernels: dict[int, int], message: dict[str, Any]) -> None:
    try:
        link.send(json.dumps(message).encode())
    except OSError:
        _end(kernels)


def _end(kernels: dict[int, int]) -> NoReturn:
    """The host is gone: nothing of ours stays."""
    for pid in kernels:
        for kill in (os.killpg, os.kill):  # a kernel that is just being born has no group yet
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(pid, signal.SIGKILL)
    os._exit(0)


if __name__ == "__main__":
    main()
