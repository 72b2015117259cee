"""An assembler for seccomp filters: one block for each system call, a comparison apart.

Guarantees: another architecture, x86_64's x32 calls, and calls newer than the table are refused whatever the blocks say. A block
sees the low 32 bits of each argument (which is all that the flags, families and signals it looks at have).
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Sequence
from typing import TypeAlias

from kernel_agent.provisioners.sandbox.syscalls import FIRST_UNKNOWN, audit_architecture, call, number, prctl

Instruction: TypeAlias = tuple[int, int, int, int]
"""Code, jump if true, jump if false, operand."""
Block: TypeAlias = list[Instruction]
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS = 1, 38
DENY, UNKNOWN, IGNORE = ERRNO | _EPERM, ERRNO | _ENOSYS, ERRNO
"""IGNORE: the call does nothing and says that it worked."""
_SET_MODE_FILTER, _TSYNC, _PR_SET_NO_NEW_PRIVS = 1, 1, 38


class _Filter(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("yes", ctypes.c_uint8), ("no", ctypes.c_uint8), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.POINTER(_Filter)))


def answer(value: int) -> Block:
    """Always this."""
    return [(_RETURN, 0, 0, value)]


def load(argument: int, mask: int | None = None) -> Block:
    """Look at this argument from here on, or at some of its bits."""
    masked = [] if mask is None else [(_AND, 0, 0, mask)]
    return [(_LOAD, 0, 0, _ARGUMENTS + 8 * argument), *masked]


def when(value: int, then: int) -> Block:
    """If what was loaded equals the value, answer so; else go on."""
    return [(_EQUAL, 0, 1, value & 0xFFFFFFFF), (_RETURN, 0, 0, then)]


def when_not(value: int, then: int) -> Block:
    """If what was loaded differs from the value, answer so; else go on."""
    return [(_EQUAL, 1, 0, value & 0xFFFFFFFF), (_RETURN, 0, 0, then)]


def when_any(bits: int, then: int) -> Block:
    """If one of the bits is set, answer so; else go on."""
    return [(_ANY_BIT, 0, 1, bits), (_RETURN, 0, 0, then)]


def assemble(blocks: Sequence[tuple[str, Block]]) -> Block:
    """The whole filter: what has no block is allowed. Each block must end in an answer."""
    program: Block = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, audit_architecture()),
        (_RETURN, 0, 0, KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, FIRST_UNKNOWN),  # x32 calls have bit 30 set
        (_RETURN, 0, 0, UNKNOWN),
    ]
    for name, block in blocks:
        known = number(name)
        if known is None:
            continue
        if len(block) > 255 or block[-1][0] != _RETURN:
            raise ValueError(f"the block for {name} is too long or has no answer")
        program += [(_EQUAL, 0, len(block), known), *block]
    return [*program, *answer(ALLOW)]


def install(program: Block) -> None:
    """Put it on every thread of the process, for good, with no_new_privs. Raises OSError."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1)
    filters = (_Filter * len(program))(*(_Filter(*instruction) for instruction in program))
    wanted = _Program(len(program), filters)
    if failed := call("seccomp", _SET_MODE_FILTER, _TSYNC, ctypes.byref(wanted)):
        raise OSError(f"thread {failed} on {platform.machine()} could not be given the system call filter")
