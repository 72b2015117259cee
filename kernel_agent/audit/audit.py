"""Audit one run: read it with care, run it again, say what holds.

Guarantees: a file that is too large, damaged or made to harm is refused with a finding that says why; it is never an
exception, and nothing in it runs outside isolation. The file is read once, and its hash is that of the bytes that were audited.
"""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from kernel_agent.audit.finding import Finding, Outcome, Report, of_rerun
from kernel_agent.audit.rerun import RerunOptions, rerun
from kernel_agent.audit.said import check_record
from kernel_agent.audit.verdicts import Rerun
from kernel_agent.errors import CodeVisionError, TrajectoryError

if TYPE_CHECKING:
    from kernel_agent.session import KernelPool
    from kernel_agent.trajectory import Trajectory

MAX_BYTES = 1 << 30
"""Largest notebook that is read."""


async def audit(
    trajectory: Trajectory,
    options: RerunOptions = RerunOptions(),
    *,
    pool: KernelPool | None = None,
    name: str = "",
    sha256: str = "",
) -> Report:
    """Audit a run in memory. Raises InputError where the kernel would not be isolated."""
    began = time.perf_counter()
    again: Rerun | None = None
    findings: list[Finding] = []
    try:
        findings += check_record(trajectory, max_pixels=options.max_pixels)
        again = await rerun(trajectory, options, pool=pool)
        findings += of_rerun(again)
    except TrajectoryError as error:
        findings.append(_refused(str(error)))
    return Report(
        name=name or (trajectory.path.name if trajectory.path else "run in memory"),
        run_id=trajectory.run_id,
        sha256=sha256,
        findings=tuple(findings),
        rerun=again,
        seconds=time.perf_counter() - began,
    )


async def audit_file(
    path: str | os.PathLike[str], options: RerunOptions = RerunOptions(), *, pool: KernelPool | None = None
) -> tuple[Report, Trajectory | None]:
    """Audit a notebook; returns the run too, where it could be read. Raises InputError as `audit` does."""
    source = Path(path)
    digest = ""
    try:
        data = _read(source)
        digest = hashlib.sha256(data).hexdigest()
        trajectory = read(data, source)
        del data
    except CodeVisionError as error:
        return Report(name=source.name, run_id="", sha256=digest, findings=(_refused(str(error)),)), None
    return await audit(trajectory, options, pool=pool, name=source.name, sha256=digest), trajectory


def read(data: bytes, source: Path) -> Trajectory:
    """The run in the bytes of a notebook. TrajectoryError where it is none or was made to harm."""
    from kernel_agent.trajectory import Trajectory, notebook

    try:
        return Trajectory(notebook.read(notebook.parse(data, source.name), source.name), source)
    except (RecursionError, MemoryError, OverflowError, ValueError) as error:
        if isinstance(error, TrajectoryError):
            raise
        raise TrajectoryError(f"{source.name} cannot be read: {type(error).__name__}: {error}"[:500]) from error


def _read(source: Path) -> bytes:
    try:
        with source.open("rb") as file:
            data = file.read(MAX_BYTES + 1) if source.is_file() else b""
    except OSError as error:
        raise TrajectoryError(f"{source} cannot be read: {error.strerror}: give the path of a saved run") from error
    if len(data) > MAX_BYTES:
        raise TrajectoryError(
            f"{source.name} has more than {MAX_BYTES:,} bytes, the most that an audit reads: split the run, or save it"
            " with lossy images"
        )
    return data


def _refused(message: str) -> Finding:
    return Finding(check="reading", outcome=Outcome.FAILS, cell="run", field="file", message=message)
