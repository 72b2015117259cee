"""Limits that Linux holds for every process on its own.

RLIMIT_NPROC counts all processes and threads of a uid in a user namespace (since Linux 5.14; of a uid before): it is set only
where those are one kernel's.
"""

from __future__ import annotations

import resource
from pathlib import Path

from kernel_agent.provisioners.sandbox.plan import Plan


def limit(plan: Plan, *, alone: bool) -> None:
    """All but memory. `alone`: no other kernel's processes are counted together with this one's."""
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_MEMLOCK, 64 << 10)
    _lower(resource.RLIMIT_FSIZE, plan.file_bytes)
    _lower(resource.RLIMIT_NOFILE, plan.open_files)
    if alone:
        _lower(resource.RLIMIT_NPROC, plan.processes)


def limit_memory(plan: Plan) -> None:
    """Address space: what there is now and `memory_bytes` more, so that Python raises MemoryError before anything is killed.

    A library that is loaded later takes of it what it maps: NumPy, OpenCV and pyplot together 600 MB on two cores, and more with
    each core. A fork of a warm parent has them already.
    """
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    _lower(resource.RLIMIT_AS, pages * resource.getpagesize() + plan.memory_bytes)


def _lower(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))
