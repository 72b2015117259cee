"""A uid for each kernel, where the host runs as root.

Ids come from 60578 to 61183, which systemd's documentation ("Users, Groups, UIDs and GIDs") leaves unused. A lease is a lock on one
byte of a file that only root can open: it holds between processes and ends with this one.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import threading
from pathlib import Path

from kernel_agent.errors import KernelError

FIRST, LAST = 60578, 61183
_FOLDERS = ("/run", "/var/tmp")
_lock = threading.Lock()
_leased: set[int] = set()
_file: tuple[int, int] | None = None
_last = FIRST - 1


def lease() -> int | None:
    """A uid that no kernel of this machine has; None where this is not root. Raises KernelError when all are in use."""
    global _last
    if os.geteuid() != 0:
        return None
    with _lock:
        descriptor = _open()
        count = LAST - FIRST + 1
        for step in range(count):
            uid = FIRST + (_last - FIRST + 1 + step) % count
            if uid not in _leased and not _known(uid) and _take(descriptor, uid):
                _leased.add(uid)
                _last = uid
                return uid
    raise KernelError(f"all {count} user ids from {FIRST} to {LAST} are in use by kernels; close some")


def give_back(uid: int | None) -> None:
    """The kernel with this uid, and all that it started, is gone. Safe to call twice, and with None."""
    with _lock:
        if uid in _leased and uid is not None:
            fcntl.lockf(_open(), fcntl.LOCK_UN, 1, uid)
            _leased.discard(uid)


def _open() -> int:
    """The file of locks. A process holds it once: closing any descriptor of it would drop all its locks."""
    global _file
    if _file is None or _file[0] != os.getpid():
        if _file is not None:  # a forked copy has none of the locks
            _leased.clear()
        folder = next(name for name in _FOLDERS if os.access(name, os.W_OK))
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        _file = os.getpid(), os.open(Path(folder) / "codevision-users.lock", flags, 0o600)
        os.fchown(_file[1], 0, 0)
    return _file[1]


def _take(descriptor: int, uid: int) -> bool:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, uid)
    except OSError:
        return False
    return True


def _known(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True
