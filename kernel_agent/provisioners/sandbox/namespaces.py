"""Namespaces of a process's own, and its place in them: process 1.

Making a process-id namespace takes a fork: the caller goes on as its child, and the process that called stays between or goes.

Guarantees: the new process is killed when its parent ends (the one between, or the fork server that adopted it), and everything
in its namespaces with it. It is process 1 there: a signal from inside has no effect on it unless it has a
handler, and nobody else waits for processes whose parent ended.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from kernel_agent.provisioners.sandbox.syscalls import call, checked, libc, prctl

HOST_NAME = b"kernel"
_NEWNS, _NEWCGROUP, _NEWUTS, _NEWIPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
_NEWUSER, _NEWPID, _NEWNET = 0x10000000, 0x20000000, 0x40000000
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_CAP_SYS_ADMIN = 21
_ADOPTION_SECONDS = 10.0
_LOOK_MS = 1000


def adopt_orphans() -> None:
    """For the fork server, once: kernels whose process between has gone become its own children."""
    prctl(_PR_SET_CHILD_SUBREAPER, 1)


class Parent:
    """The parent of this process, as seen from outside its namespaces (`os.getppid()` is 0 inside).

    Holds a descriptor of the old /proc, which still tells once that is mounted no more.
    """

    def __init__(self, expected: int | None = None) -> None:
        """`expected`: its process id in the old /proc; None: the present one."""
        self._status = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
        self.expected = self.now() if expected is None else expected

    def now(self) -> int:
        """Who it is now."""
        text = os.pread(self._status, 4096, 0)
        return int(text.split(b"\nPPid:", 1)[1].split(None, 1)[0])

    def wait(self, before: int) -> None:
        """Until it is no longer `before`; whoever it is must then be the expected one, else this process ends."""
        until = time.monotonic() + _ADOPTION_SECONDS
        while self.now() == before and before != self.expected and time.monotonic() < until:
            time.sleep(0.0002)

    def hold(self) -> None:
        """Be killed when it ends; end now if it has. To be repeated after a change of uid, which cancels it."""
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if self.now() != self.expected:
            os._exit(1)

    def close(self) -> None:
        """Let go of the old /proc."""
        os.close(self._status)


def needs_user_namespace() -> bool:
    """Whether this process may make namespaces only inside a user namespace of its own."""
    line = Path("/proc/self/status").read_text().split("\nCapEff:", 1)[1].split(None, 1)[0]
    return not int(line, 16) >> _CAP_SYS_ADMIN & 1


def become_first(born: Callable[[int], None] | None) -> Parent:
    """Go on as process 1 of new namespaces; returns there. Needs a single thread. Raises OSError in the caller.

    Args:
        born: called with the new process's id in the process between, which then ends with status 0: for a fork server
            that called `adopt_orphans`. None: the process between stays, passes SIGTERM on, and ends as the new one does.
    """
    flags = _NEWNS | _NEWCGROUP | _NEWUTS | _NEWIPC | _NEWPID | _NEWNET
    uid, gid, user = os.geteuid(), os.getegid(), needs_user_namespace()
    between, adopter = os.getpid(), os.getppid()
    call("unshare", flags | (_NEWUSER if user else 0))
    if user:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            Path(f"/proc/self/{name}").write_text(text)
    if pid := os.fork():
        _stay(pid, adopter) if born is None else _go(pid, born)
    if born is None:
        parent = Parent(between)
    else:
        os.setsid()
        parent = Parent(adopter)
        parent.wait(between)
    parent.hold()
    checked(libc.sethostname(HOST_NAME, len(HOST_NAME)), "sethostname")
    return parent


def _go(pid: int, born: Callable[[int], None]) -> NoReturn:
    """Say who was born, and go."""
    status = 1
    with contextlib.suppress(BaseException):
        born(pid)
        status = 0
    os._exit(status)


def _stay(pid: int, parent: int) -> NoReturn:
    """Wait for it, and end as it did; end at once, and it too, when the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(pid, signal.SIGTERM))
    poll = select.poll()
    poll.register(os.pidfd_open(pid), select.POLLIN)
    while not poll.poll(_LOOK_MS):
        if os.getppid() != parent:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status < 0:
        with contextlib.suppress(OSError):  # SIGKILL has no handler
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)
