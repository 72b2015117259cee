"""The host's part of isolating one kernel: its plan, who owns its folders, its environment, its command."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from kernel_agent.provisioners.sandbox.plan import MIB, Plan
from kernel_agent.provisioners.sandbox.readable import fonts, readable
from kernel_agent.types import Isolation

INSIDE = "/kernel"
"""Where a kernel's own files are, inside a strong sandbox."""
_KEPT = {
    "PATH",
    "LANG",
    "LANGUAGE",
    "TZ",
    "TERM",
    "COLUMNS",
    "LINES",
    "MPLBACKEND",
    "VIRTUAL_ENV",
    "LD_LIBRARY_PATH",
    "JPY_SESSION_NAME",
    "SOURCE_DATE_EPOCH",
}
_KEPT_BEGINNINGS = ("LC_", "PYTHON", "OMP_", "OPENBLAS_", "MKL_", "NUMEXPR_", "OPENCV_", "PYDEVD_")


def prepare(
    level: Isolation,
    *,
    connection_file: Path,
    scratch: Path,
    namespaces: bool,
    user: int | None,
    memory_mb: int = 2048,
    extra_readable: tuple[str, ...] = (),
) -> Plan:
    """The plan for a kernel, with the folder of its connection file given to it as far as it needs that.

    Args:
        level: STRONG or MEDIUM.
        connection_file: in a folder of its own, on the local file system, holding nothing else.
        scratch: an existing folder of the host's, used by MEDIUM alone.
        namespaces: whether the kernel makes its namespaces (`Choice.own_namespaces`).
        user: from `users.lease()`.
        memory_mb: MiB that the code may use.
        extra_readable: further files and folders to read.
    """
    folder = connection_file.parent.resolve()
    inner = Path(INSIDE) if level is Isolation.STRONG else scratch.resolve()
    if user is not None:
        # sticky and root's: the kernel can make sockets there and remove them, but not the connection file
        os.chown(folder, 0, user)
        folder.chmod(0o1770)
        if connection_file.exists():
            os.chown(connection_file, 0, user)
            connection_file.chmod(0o640)
        if level is Isolation.MEDIUM:
            for own in (inner, *inner.iterdir()):  # the folder is new: what is in it was put there by its maker
                os.chown(own, user, user, follow_symlinks=False)
            inner.chmod(0o700)
    paths, links = readable(extra_readable)
    return Plan(
        level=level,
        namespaces=namespaces and level is Isolation.STRONG,
        folder=str(folder),
        connection_file=str(folder / connection_file.name),
        scratch=str(inner),
        readable=paths,
        links=links,
        fonts=fonts(),
        user=user,
        keep_reading=user is not None and level is Isolation.MEDIUM and not _open_to_all(),
        memory_bytes=memory_mb * MIB,
    )


def clean(env: Mapping[str, str]) -> dict[str, str]:
    """Of an environment, what Python and its libraries need, and no key or token: what a fork server may be started with."""
    return {name: value for name, value in env.items() if name in _KEPT or name.startswith(_KEPT_BEGINNINGS)}


def environment(plan: Plan, env: Mapping[str, str], extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The kernel's whole environment: what is `clean` of the host's, what the plan says, and `extra`.

    A process's first environment stays readable in /proc: the fork server, too, must be started with a clean one.
    """
    own = {
        "HOME": plan.work,
        "TMPDIR": "/tmp" if plan.level is Isolation.STRONG else f"{plan.scratch}/tmp",
        "IPYTHONDIR": f"{plan.scratch}/ipython",
        "MPLCONFIGDIR": f"{plan.scratch}/matplotlib",
        "PYTHONDONTWRITEBYTECODE": "1",
        # 1: no watch over the parent's id, which has no meaning in another namespace; the kernel dies with it anyway
        "JPY_PARENT_PID": "1",
    }
    return clean(env) | own | dict(extra or {})


def command(plan: Plan, arguments: Sequence[str] = (), *, interpreter: Sequence[str] = (sys.executable,)) -> list[str]:
    """The command of a plain start; to be given to `spawn.spawn`, behind `bwrap.prefix` where bubblewrap makes the namespaces."""
    return [*interpreter, "-m", "kernel_agent.provisioners.sandbox.launch", plan.to_json(), *arguments]


def clear(folder: Path) -> None:
    """Make a folder that a kernel could write to removable again, whatever it did to the modes. Follows no link."""
    with contextlib.suppress(OSError):
        folder.chmod(0o700)
        for root, folders, _ in os.walk(folder):
            for name in folders:
                if not (inner := Path(root) / name).is_symlink():
                    inner.chmod(0o700)


def _open_to_all() -> bool:
    """Whether any user may reach the interpreter and this package."""
    paths = [Path(path).resolve() for path in (sys.executable, sys.base_prefix, sys.prefix, __file__)]
    return all(parent.stat().st_mode & 0o001 for path in paths for parent in path.parents)
