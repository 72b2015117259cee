"""Audit a folder of runs, notebooks and bundles, with a pool of kernels.

Guarantees: as many runs are in memory as there are workers, however many there are; each is one line of JSON in the results,
written when it is done; a second run over the same folder leaves out what the results hold already, told by the file's
SHA-256 and the options. A line that a crash cut off is left out and done again. A file that cannot be read, or is no run, is a
line too, which says what it is.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from kernel_agent import __version__
from kernel_agent.audit.audit import audit_file, read_bytes, refused
from kernel_agent.audit.finding import Outcome, Report
from kernel_agent.audit.rerun_setup import RerunOptions, check_isolation
from kernel_agent.audit.results import Results
from kernel_agent.audit.seal import Expected
from kernel_agent.errors import InputError, TrajectoryError
from kernel_agent.trajectory.codec import text
from kernel_agent.types import Json

if TYPE_CHECKING:
    from kernel_agent.session import KernelPool

_SHOWN = 5
_ENDINGS = (".ipynb", ".zip")
"""Of names, in any case."""


@dataclass(kw_only=True)
class Batch:
    """What a batch has found.

    Attributes:
        total: notebooks and zip files in the folder; `skipped` of them were in the results already (they count in `outcomes`).
        left_out: those that were not looked at: links, hidden names.
        outcomes: how many hold, fail, could not be checked.
        verdicts: of all cells.
        worst: lines of runs that do not hold, the first ones.
    """

    total: int = 0
    skipped: int = 0
    left_out: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)
    worst: list[dict[str, Json]] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """1 where a run fails, else 2 where one could not be checked, else 0."""
        return 1 if self.outcomes[Outcome.FAILS] else 2 if self.outcomes[Outcome.UNCHECKED] else 0

    def add(self, line: dict[str, Json]) -> None:
        """Count a line."""
        self.outcomes[line["outcome"]] += 1
        self.verdicts.update(line["cells"])
        if line["outcome"] != Outcome.HOLDS and len(self.worst) < 1000:
            self.worst.append(line)


def runs(folder: Path) -> Iterator[Path]:
    """All notebooks and zip files under a folder by name, without links and checkpoints."""
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(root, name)
            if name.lower().endswith(_ENDINGS) and not name.startswith(".") and not path.is_symlink():
                yield path


def left_out(folder: Path) -> int:
    """How many notebooks and zip files under a folder `runs` passes over: links, hidden names; a linked folder counts once."""
    count = 0
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name != ".ipynb_checkpoints"]
        hidden = any(part.startswith(".") for part in Path(root).relative_to(folder).parts)
        count += sum(Path(root, name).is_symlink() for name in folders)
        for name in files:
            if name.lower().endswith(_ENDINGS):
                count += hidden or name.startswith(".") or Path(root, name).is_symlink()
    return count


async def audit_folder(
    folder: Path,
    results: Path,
    options: RerunOptions = RerunOptions(),
    *,
    expected: Expected = Expected(),
    jobs: int | None = None,
    watch: Callable[[Batch], None] = lambda batch: None,
) -> Batch:
    """Audit every run under `folder`; `results` is continued where it exists. `watch` is told first how many there are.

    Raises InputError where there is no run or no isolation, StorageError where `results` cannot be written.
    """
    from kernel_agent.session import KernelPool

    check_isolation(options.kernel, unsafe=options.unsafe or not options.code)
    options = replace(options, pictures=False)
    count = jobs or os.cpu_count() or 1
    marked = _mark(options, expected)
    batch = Batch(total=sum(1 for _ in runs(folder)))
    if not batch.total:
        raise InputError(f"{folder} holds no notebook (*.ipynb) and no bundle (*.zip): give a folder of saved runs")
    batch.left_out = left_out(folder)
    waiting = runs(folder)
    with Results(results) as kept:
        watch(batch)
        lines = (line for line in kept.earlier() if line["options"] == marked and line["sha256"])
        done = {(line["path"], line["sha256"]): line for line in lines}
        async with KernelPool(count, kernel=options.kernel) as pool:

            async def work() -> None:
                for path in waiting:
                    name = text(str(path.relative_to(folder)))
                    key = (name, await asyncio.to_thread(_sha256, path))
                    if key in done:
                        batch.skipped += 1
                        batch.add(done.pop(key))
                    else:
                        line = _line(name, await _audited(path, options, expected, pool)) | {"options": marked}
                        kept.add(line)
                        batch.add(line)
                    watch(batch)

            async with asyncio.TaskGroup() as group:
                for _ in range(min(count, batch.total)):
                    group.create_task(work())
    return batch


async def _audited(path: Path, options: RerunOptions, expected: Expected, pool: KernelPool) -> Report:
    """The report of one file: whatever is wrong with it, the others are audited."""
    try:
        return (await audit_file(path, options, expected=expected, pool=pool))[0]
    except Exception as error:
        return refused(text(path.name), error)


def _line(name: str, report: Report) -> dict[str, Json]:
    """One run, without what only its own report needs."""
    rerun, seal = report.rerun, report.seal
    return {
        "path": name,
        "sha256": report.sha256,
        "run": report.run_id,
        "outcome": str(report.outcome),
        "cells": {} if rerun is None else {key: value for key, value in rerun.counts().items() if value},
        "signed_by": [] if seal is None else [*seal.signers, *(item.name for item in seal.identified)],
        "isolation": "not started" if rerun is None else rerun.isolation,
        "findings": [finding.as_json() for finding in report.findings[:_SHOWN]],
        "more_findings": max(0, len(report.findings) - _SHOWN),
        "seconds": round(report.seconds, 3),
    }


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(read_bytes(path)).hexdigest()
    except TrajectoryError:
        return ""  # the audit says why


def _mark(options: RerunOptions, expected: Expected) -> str:
    able = find_spec("sigstore") is not None  # what was not checked for want of it is checked then
    text = json.dumps([asdict(options), asdict(expected), able, __version__], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
