"""The two moments at which a kernel process isolates itself: `enter` before it has sockets and threads, `seal` after.

Both are for the kernel's own process and cannot be undone. An exception means that the process must end without running anybody's
code: layers that came before stay, but no level is claimed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
from collections.abc import Callable, Iterable
from pathlib import Path

from kernel_agent.provisioners.sandbox import bpf, landlock, mounts, namespaces, privileges, seccomp
from kernel_agent.provisioners.sandbox.limits import limit, limit_memory
from kernel_agent.provisioners.sandbox.plan import Plan
from kernel_agent.types import Isolation

_PROC_OF_ONES_OWN = (
    "self",
    "meminfo",
    "cpuinfo",
    "stat",
    "loadavg",
    "uptime",
    "version",
    "filesystems",
    "sys/vm",
    "sys/kernel",
)


def enter(
    plan: Plan, *, keep: Iterable[int] = (), born: Callable[[int], None] | None = None, held: bool = False
) -> None:
    """Namespaces and mounts, uid and capabilities, limits, Landlock; ends in the plan's working directory.

    Call it with one thread, before ZMQ, and go on in the process that it returns in: with namespaces that is
    process 1 of them. Raises OSError where the kernel refuses a layer.

    Args:
        keep: descriptors to keep besides 0, 1 and 2; all others are closed.
        born: see `namespaces.become_first`; without namespaces it is called with the process's own id.
        held: die with the parent, whose thread that started this process must live as long as itself (`spawn.spawn`).
    """
    privileges.close_others(keep)
    parent = namespaces.Parent()
    if held:
        parent.hold()
    if plan.namespaces:
        parent.close()
        parent = namespaces.become_first(born)
        mounts.build(plan)
    elif born is not None:
        born(os.getpid())
    _forget_sockets(plan.folder)
    privileges.drop(plan.user, keep_reading=plan.keep_reading)
    if plan.namespaces or held or born is not None:
        parent.hold()
    parent.close()
    for folder in plan.folders:
        Path(folder).mkdir(mode=0o700, exist_ok=True)
    _share_fonts(plan)
    limit(plan, alone=plan.user is not None or plan.level is Isolation.STRONG)
    landlock.restrict(_strong(plan) if plan.level is Isolation.STRONG else _medium(plan))
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # ignored on the way here by what must outlive an interrupt
    os.chdir(plan.work)


def seal(plan: Plan) -> None:
    """The limit on memory, and the filter of system calls on every thread. Raises OSError."""
    limit_memory(plan)
    signals = plan.level is Isolation.STRONG or plan.user is not None or landlock.version() >= 6
    own = plan.level is Isolation.STRONG
    bpf.install(seccomp.program(namespaces=own, first=plan.namespaces, signals=signals))


def _forget_sockets(folder: str) -> None:
    """Sockets of an earlier process of this kernel, which this one may not remove once it is restricted."""
    for entry in Path(folder).iterdir():
        if stat.S_ISSOCK(entry.lstat().st_mode):
            entry.unlink()


def _share_fonts(plan: Plan) -> None:
    """Matplotlib finds its list of fonts in a folder that it may write to."""
    if plan.fonts:
        with contextlib.suppress(OSError):
            for found in Path(plan.fonts).glob("fontlist-*.json"):
                with contextlib.suppress(FileExistsError):
                    Path(f"{plan.scratch}/matplotlib/{found.name}").symlink_to(found)


def _strong(plan: Plan) -> list[tuple[str, int]]:
    """Behind mounts of its own: all there is may be read."""
    use = landlock.USE | landlock.MAKE_SYM | landlock.MAKE_SOCK | landlock.MAKE_FIFO
    return [
        ("/", landlock.READ),
        *((path, use) for path in (plan.scratch, "/tmp", "/dev/shm")),
        *((f"/dev/{name}", landlock.READ_FILE | landlock.WRITE_FILE | landlock.IOCTL_DEV) for name in mounts.DEVICES),
        (mounts.RUN, landlock.MAKE_SOCK),
    ]


def _medium(plan: Plan) -> list[tuple[str, int]]:
    """Among the host's files: what the plan names. No link in scratch, which could lead a reader on the host astray."""
    return [
        *((path, landlock.READ) for path in plan.readable),
        *((f"/proc/{name}", landlock.READ_FILE | landlock.READ_DIR) for name in _PROC_OF_ONES_OWN),
        *((f"/dev/{name}", landlock.READ_FILE | landlock.WRITE_FILE | landlock.IOCTL_DEV) for name in mounts.DEVICES),
        ("/etc/passwd", landlock.READ_FILE),
        ("/etc/group", landlock.READ_FILE),
        (plan.scratch, landlock.USE),
        (plan.folder, landlock.READ_FILE | landlock.READ_DIR | landlock.MAKE_SOCK),
    ]
