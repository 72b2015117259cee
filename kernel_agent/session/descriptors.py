"""Room for file descriptors: many kernels need many in one process."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from kernel_agent.errors import KernelError

PER_KERNEL = 16
"""Descriptors that a kernel costs in the process that drives it (measured, and rounded up)."""
SPARE = 128
"""For everything else that the process will open."""


def make_room(kernels: int) -> None:
    """Raise this process's soft limit to its hard one where `kernels` would not fit otherwise.

    The limit holds for the whole process and is inherited by what it starts. Raises KernelError where the hard limit is
    too low. Does nothing on systems without such limits.
    """
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _open() + SPARE + PER_KERNEL * kernels
    if soft == resource.RLIM_INFINITY or needed <= soft:
        return
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise KernelError(
            f"{kernels} kernels need {needed} file descriptors in this process ({PER_KERNEL} each); the hard limit is "
            f"{hard}, enough for {max(0, (hard - needed) // PER_KERNEL + kernels)}. Ask for fewer, or raise the limit "
            f"(`ulimit -Hn {needed}`, LimitNOFILE= of a systemd unit, --ulimit nofile= of a container)."
        )
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed if hard == resource.RLIM_INFINITY else hard, hard))
    except (OSError, ValueError) as error:  # macOS has a lower limit beside the hard one
        raise KernelError(
            f"{kernels} kernels need {needed} file descriptors in this process; the limit of {soft} cannot be raised: "
            f"{error}. Ask for fewer kernels."
        ) from error


def _open() -> int:
    with contextlib.suppress(OSError):
        return sum(1 for _ in Path("/dev/fd").iterdir())
    return 0
