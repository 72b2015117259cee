"""Landlock: which files a process and its children may touch from now on, and whom they may signal.

Guarantees: every right of the running kernel's Landlock version is handled, so what no rule grants is denied: files, TCP
(version 4), abstract sockets and signals outside the sandbox (6). Not covered by any version up to 7: `stat`, `chmod`,
extended attributes, sockets that are files, UDP, netlink; seccomp covers those. Only the calling thread and what it starts later
are restricted, so it belongs before the first thread. Rules bind to what is mounted now: mounts come first.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterable

from kernel_agent.provisioners.sandbox.syscalls import call, prctl

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = (1 << bit for bit in range(6))
MAKE_CHAR, MAKE_DIR, MAKE_REG, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK, MAKE_SYM = (1 << bit for bit in range(6, 13))
REFER, TRUNCATE, IOCTL_DEV = (1 << bit for bit in range(13, 16))
READ = EXECUTE | READ_FILE | READ_DIR
USE = READ | WRITE_FILE | TRUNCATE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | REFER
"""A folder of one's own: ordinary files and folders."""
_OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
_FS_BITS = {1: 13, 2: 14, 3: 15, 4: 15}
_ALL_FS_BITS = 16
_NET = 0b11
_SCOPES = 0b11
_PR_SET_NO_NEW_PRIVS = 38
_PATH_BENEATH = 1


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("access", ctypes.c_uint64), ("descriptor", ctypes.c_int32))


def version() -> int:
    """Landlock's version in the running kernel; 0 where there is none."""
    try:
        return call("landlock_create_ruleset", None, 0, 1)
    except OSError:
        return 0


def restrict(rules: Iterable[tuple[str, int]]) -> None:
    """Allow these rights beneath these paths and nothing else; a path that does not exist is left out. Raises OSError."""
    abi = version()
    if not abi:
        raise OSError(38, "this kernel has no Landlock: it needs Linux 5.13 or later with landlock among its LSMs")
    handled = (1 << _FS_BITS.get(abi, _ALL_FS_BITS)) - 1
    wanted = _Ruleset(handled, _NET if abi >= 4 else 0, _SCOPES if abi >= 6 else 0)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    ruleset = call("landlock_create_ruleset", ctypes.byref(wanted), size, 0)
    try:
        for path, access in rules:
            _allow(ruleset, path, access & handled)
        prctl(_PR_SET_NO_NEW_PRIVS, 1)
        call("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, access: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            access &= _OF_FILES
        rule = _PathBeneath(access, descriptor)
        call("landlock_add_rule", ruleset, _PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(descriptor)
