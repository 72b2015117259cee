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

import orjson

from kernel_agent.audit.audit import audit_file
from kernel_agent.audit.finding import Outcome, Report
from kernel_agent.audit.rerun_setup import RerunOptions, check_isolation
from kernel_agent.audit.seal import Expected
from kernel_agent.errors import InputError, StorageError
from kernel_agent.types import Json

_SHOWN = 5


@dataclass(kw_only=True)
class Batch:
    """What a batch has found.

    Attributes:
        total: notebooks and zip files in the folder; `skipped` of them were in the results already (they count in `outcomes`).
        outcomes: how many hold, fail, could not be checked.
        verdicts: of all cells.
        worst: lines of runs that do not hold, the first ones.
    """

    total: int = 0
    skipped: int = 0
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
            if name.endswith((".ipynb", ".zip")) and not name.startswith(".") and not path.is_symlink():
                yield path


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
    done = _done(results, marked)
    waiting = runs(folder)
    try:
        file = os.open(results, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise StorageError(f"{results} cannot be written: {error.strerror}: give another --results") from error
    watch(batch)
    try:
        async with KernelPool(count, kernel=options.kernel) as pool:

            async def work() -> None:
                for path in waiting:
                    name = str(path.relative_to(folder))
                    key = (name, await asyncio.to_thread(_sha256, path))
                    if key in done:
                        batch.skipped += 1
                        batch.add(done.pop(key))
                    else:
                        report, _ = await audit_file(path, options, expected=expected, pool=pool)
                        line = _line(name, report) | {"options": marked}
                        os.write(file, orjson.dumps(line) + b"\n")
                        batch.add(line)
                    watch(batch)

            async with asyncio.TaskGroup() as group:
                for _ in range(min(count, batch.total)):
                    group.create_task(work())
    finally:
        os.close(file)
    return batch


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


def _done(results: Path, marked: str) -> dict[tuple[str, str], dict[str, Json]]:
    """The lines that earlier runs with the same options left, by path and hash of the file. A torn last line is cut off."""
    found: dict[tuple[str, str], dict[str, Json]] = {}
    try:
        with results.open("r+b") as file:
            end = 0
            for text in file:
                if not text.endswith(b"\n"):
                    file.truncate(end)
                    break
                end += len(text)
                line = orjson.loads(text)
                if line["options"] == marked and line["sha256"]:
                    kept = {key: line[key] for key in ("path", "outcome", "cells", "findings", "seconds")}
                    found[line["path"], line["sha256"]] = kept
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StorageError(f"{results} cannot be read: {error.strerror}: give another --results") from error
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise StorageError(f"{results} is no file of audit results ({error}): give another --results") from error
    return found


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""  # the audit says why


def _mark(options: RerunOptions, expected: Expected) -> str:
    able = find_spec("sigstore") is not None  # what was not checked for want of it is checked then
    text = json.dumps([asdict(options), asdict(expected), able], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
