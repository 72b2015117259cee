"""Which processes belong to a kernel, and how much memory they use, from /proc."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable


def tree(pid: int) -> set[int]:
    """The process and its descendants. A process whose parents ended is missed, unless the kernel is process 1 of its namespace."""
    found: set[int] = set()
    left = [pid]
    while left:
        one = left.pop()
        if one in found:
            continue
        found.add(one)
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{one}/task"):  # noqa: PTH208 (called often)
                left += map(int, _read(f"/proc/{one}/task/{task}/children").split())
    return found


def groups() -> dict[int, set[int]]:
    """The members of each process group of this machine."""
    found: dict[int, set[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                found.setdefault(int(_stat(int(name))[2]), set()).add(int(name))
    return found


def activity(pid: int) -> tuple[str, ...] | None:
    """Page faults, CPU time (its own and of children that ended), resident size: what changes when it does something.

    None: it is gone.
    """
    try:
        fields = _stat(pid)
        return None if fields[0] == "Z" else (fields[7], *fields[11:15], fields[21])
    except (OSError, IndexError):
        return None


def resident(pids: Iterable[int]) -> int:
    """Bytes of anonymous and shared memory they have in use. Pages that forks share are counted for each: too much, never too little."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += _kilobytes(_read(f"/proc/{pid}/status"), ("RssAnon:", "RssShmem:"))
    return total * 1024


def proportional(pids: Iterable[int]) -> int:
    """The same with each shared page divided among its users. Dear: some milliseconds for each process."""
    total = 0
    for pid in pids:
        try:
            total += _kilobytes(_read(f"/proc/{pid}/smaps_rollup"), ("Pss_Anon:", "Pss_Shmem:"))
        except PermissionError:
            total += resident([pid]) // 1024
        except OSError:
            continue
    return total * 1024


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on: the name before it may hold anything."""
    return _read(f"/proc/{pid}/stat").rpartition(")")[2].split()


def _kilobytes(text: str, names: tuple[str, ...]) -> int:
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith(names))


def _read(path: str) -> str:
    with open(path, errors="replace") as file:  # noqa: PTH123 (called often)
        return file.read()
