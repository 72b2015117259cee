"""Audit one run: read it with care, compare it with its seal, with itself and with what its code gives again; say what holds.

Guarantees: a file that is too large, damaged or made to harm is refused with a finding that says why; it is never an
exception, and nothing in it runs outside isolation. The file is read once, and its hash is that of the bytes that were audited.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from kernel_agent import __version__
from kernel_agent.audit.beside import check_journal
from kernel_agent.audit.bundle import NOTEBOOK, is_bundle, read_bundle, with_members
from kernel_agent.audit.exchanges import exchanges, people
from kernel_agent.audit.finding import Finding, Outcome, Report, few, of_rerun
from kernel_agent.audit.rerun import rerun
from kernel_agent.audit.rerun_setup import RerunOptions, check_isolation, recorded_in
from kernel_agent.audit.said import check_record
from kernel_agent.audit.seal import Expected, Seal, broken_before, check_seal
from kernel_agent.audit.shown import check_shown
from kernel_agent.audit.verdicts import Rerun
from kernel_agent.errors import CodeVisionError, TrajectoryError
from kernel_agent.trajectory import Trajectory, notebook
from kernel_agent.trajectory.codec import text
from kernel_agent.trajectory.reading import FOREIGN_VALUES, read_file, read_json, repeated_keys
from kernel_agent.types import Json

if TYPE_CHECKING:
    from kernel_agent.session import KernelPool

T = TypeVar("T")
_ANY = (Exception,)
"""What a record that was read, but does not fit together, can make of a check. Our own faults show in tests of honest runs."""


async def audit(
    trajectory: Trajectory, options: RerunOptions = RerunOptions(), *, pool: KernelPool | None = None
) -> Report:
    """Audit a run in memory: its record and its code. Raises InputError where the kernel would not be isolated."""
    name = trajectory.path.name if trajectory.path else "run in memory"
    report = Report(name=name, run_id=trajectory.run_id, audited=_audited(options, pool))
    return await _audit(trajectory, options, pool, report)


async def audit_file(
    path: str | os.PathLike[str],
    options: RerunOptions = RerunOptions(),
    *,
    expected: Expected = Expected(),
    pool: KernelPool | None = None,
) -> tuple[Report, Trajectory | None]:
    """Audit a notebook or a bundle; returns the run too, where it could be read. Raises InputError as `audit` does."""
    source = Path(path)
    name = text(source.name)
    try:
        data = read_bytes(source)
    except TrajectoryError as error:
        return replace(refused(name, error), audited=_audited(options, pool)), None
    report, trajectory = await audit_bytes(data, name, options, expected=expected, pool=pool)
    if is_bundle(data, name):
        return report, trajectory
    try:
        beside = check_journal(source, trajectory)
    except _ANY as error:
        beside = [_contradiction("journal", error)]
    return replace(report, findings=(*report.findings, *beside)), trajectory


async def audit_bytes(
    data: bytes,
    name: str,
    options: RerunOptions = RerunOptions(),
    *,
    expected: Expected = Expected(),
    pool: KernelPool | None = None,
) -> tuple[Report, Trajectory | None]:
    """Audit the bytes of a notebook or of a bundle; `name` is that of the file."""
    opened = _unpacked if is_bundle(data, name) else _opened
    audited = _audited(options, pool)
    report, trajectory = opened(data, name, options, expected)
    report = replace(report, sha256=hashlib.sha256(data).hexdigest(), audited=audited)
    if trajectory is None:
        return report, None
    return await _audit(trajectory, options, pool, report), trajectory


def _audited(options: RerunOptions, pool: KernelPool | None) -> dict[str, Json]:
    """When this audit is made, with what and how."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        "time": now,
        "version": __version__,
        "options": options.told(options.kernel if pool is None else pool.kernel),
    }


def _unpacked(data: bytes, name: str, options: RerunOptions, expected: Expected) -> tuple[Report, Trajectory | None]:
    """As `_opened`, of a bundle."""
    try:
        held, found = _safely(lambda: read_bundle(data, name), name)
    except TrajectoryError as error:
        return refused(name, error), None
    report, trajectory = _opened(held[NOTEBOOK], name, options, expected)
    try:
        return with_members(report, trajectory, held, found), trajectory
    except _ANY as error:
        return replace(report, findings=(*report.findings, *found, _contradiction("bundle", error))), trajectory


def _opened(data: bytes, name: str, options: RerunOptions, expected: Expected) -> tuple[Report, Trajectory | None]:
    """The run in these bytes, and what its seal and its cells say; no run where it cannot be read."""
    report = Report(name=name, run_id="")
    findings: list[Finding] = []
    try:
        parsed = _safely(lambda: notebook.parse(data, name, FOREIGN_VALUES), name)
        seal, findings = _safely(lambda: check_seal(parsed, expected), name)
        report = replace(report, seal=seal, signer_expected=expected.signed)
        trajectory = _safely(lambda: Trajectory(notebook.read(parsed, name)), name)
    except TrajectoryError as error:
        seal, found = _sealed_at_least(data, expected)
        return replace(refused(name, error), seal=seal, findings=(_refused(str(error)), *(findings or found))), None
    try:
        findings += map(_doubled, repeated_keys(data))
        findings += check_shown(parsed, trajectory, max_pixels=options.max_pixels)
    except _ANY as error:
        findings.append(_contradiction("cells", error))
    return replace(report, run_id=trajectory.run_id, findings=tuple(findings)), trajectory


async def _audit(trajectory: Trajectory, options: RerunOptions, pool: KernelPool | None, report: Report) -> Report:
    """The report, with what the record and the code say added."""
    check_isolation(options.kernel if pool is None else pool.kernel, unsafe=options.unsafe or not options.code)
    began = time.perf_counter()
    again: Rerun | None = None
    findings = list(report.findings)
    try:
        findings += few(check_record(trajectory, max_pixels=options.max_pixels))
        findings += broken_before(trajectory) if report.seal is None else []
        asked, decided = tuple(exchanges(trajectory)), tuple(people(trajectory))
        report = replace(report, exchanges=asked, people=decided, recorded=recorded_in(trajectory))
        report = replace(report, model=dict(trajectory.model))
    except _ANY as error:
        findings.append(_contradiction("record", error))
    try:
        again = await rerun(trajectory, options, pool=pool)
        findings += few(of_rerun(again))
    except _ANY as error:
        findings.append(_contradiction("code", error))
    took = time.perf_counter() - began
    return replace(report, findings=tuple(findings), rerun=again, code=options.code, seconds=took)


def _sealed_at_least(data: bytes, expected: Expected) -> tuple[Seal | None, list[Finding]]:
    """What the seal says of a notebook that is no run any more."""
    try:
        return check_seal(read_json(data, "the notebook", FOREIGN_VALUES), expected)
    except _ANY:
        return None, []


def _safely(work: Callable[[], T], name: str) -> T:
    """What `work` gives; TrajectoryError where the bytes were made to harm."""
    try:
        return work()
    except TrajectoryError:
        raise
    except _ANY as error:
        raise TrajectoryError(f"{name} cannot be read: {type(error).__name__}: {error}"[:500]) from error


def read_bytes(source: Path) -> bytes:
    """The bytes of a file that is to be audited. TrajectoryError where there is none, it is no file, or too large."""
    try:
        return read_file(source)
    except OSError as error:
        raise TrajectoryError(
            f"{text(str(source))} cannot be read: {error.strerror}: give the path of a saved run"
        ) from error


def refused(name: str, error: Exception) -> Report:
    """The report of a file that cannot be audited."""
    told = str(error) if isinstance(error, CodeVisionError) else f"{type(error).__name__}: {error}"
    return Report(name=name, run_id="", findings=(_refused(told[:500]),))


def _contradiction(field: str, error: Exception) -> Finding:
    told = str(error) if isinstance(error, CodeVisionError) else f"{type(error).__name__}: {error}"
    message = f"the record does not fit together: {told}"[:500]
    return Finding(check="reading", outcome=Outcome.FAILS, cell="run", field=field, message=message)


def _doubled(key: str) -> Finding:
    message = f"the key {key!r:.80} stands twice in one place: programs differ in which of the two they show"
    return Finding(check="integrity", outcome=Outcome.FAILS, cell="run", field="file", message=message)


def _refused(message: str) -> Finding:
    return Finding(check="reading", outcome=Outcome.FAILS, cell="run", field="file", message=message)
