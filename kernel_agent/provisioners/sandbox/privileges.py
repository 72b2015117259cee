"""Letting go of root, of capabilities, and of inherited descriptors.

Guarantees, once `drop` returned: no capability but, where asked, the one to read files; none can be had again by running a program;
and where a user is given, nothing of the old one's ids is left.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterable

from kernel_agent.provisioners.sandbox.syscalls import call, prctl

_PR_SET_DUMPABLE, _PR_SET_KEEPCAPS, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 4, 8, 24, 38
_PR_CAP_AMBIENT, _AMBIENT_RAISE, _AMBIENT_CLEAR = 47, 2, 4
_CAP_DAC_READ_SEARCH = 2
_LAST_CAPABILITY = 63
_VERSION_3 = 0x20080522
_MOST_DESCRIPTORS = 1 << 20


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def drop(user: int | None, *, keep_reading: bool) -> None:
    """Become the user (needs root) or stay, and give up every capability, for good. Raises OSError."""
    kept = 1 << _CAP_DAC_READ_SEARCH if keep_reading else 0
    for capability in range(_LAST_CAPABILITY + 1):
        if not kept & (1 << capability):
            with contextlib.suppress(OSError):  # not a capability of this kernel, or there is nothing to drop
                prctl(_PR_CAPBSET_DROP, capability)
    if user is not None:
        prctl(_PR_SET_KEEPCAPS, int(bool(kept)))
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        prctl(_PR_SET_KEEPCAPS, 0)
        if os.getresuid() != (user,) * 3 or os.getresgid() != (user,) * 3 or os.getgroups():
            raise OSError(f"could not become user {user}")
    with contextlib.suppress(OSError):
        prctl(_PR_CAP_AMBIENT, _AMBIENT_CLEAR)
    header, data = _Header(_VERSION_3, 0), (_Data * 2)(_Data(kept, kept, kept), _Data(0, 0, 0))
    call("capset", ctypes.byref(header), ctypes.byref(data))
    if kept:
        prctl(_PR_CAP_AMBIENT, _AMBIENT_RAISE, _CAP_DAC_READ_SEARCH)  # for the programs it starts
    prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if user is not None:
        prctl(_PR_SET_DUMPABLE, 1)  # cleared with the uid; /proc/self would stay root's


def close_others(keep: Iterable[int]) -> None:
    """Close every descriptor but 0, 1, 2 and these."""
    start = 3
    for descriptor in sorted({fd for fd in keep if fd >= start}):
        os.closerange(start, descriptor)
        start = descriptor + 1
    os.closerange(start, _MOST_DESCRIPTORS)
