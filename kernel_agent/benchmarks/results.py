"""What came of one sample in one column, and the file that keeps it.

A column is a condition (tools, or a control) under a transform. `Journal.add` returns when the result is on the disk: whoever
is killed loses only what was in flight, and a later run with the same settings asks nothing twice.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

import orjson

from kernel_agent.errors import InputError, StorageError
from kernel_agent.tasks.orientation import Orientation
from kernel_agent.trajectory import Trajectory
from kernel_agent.trajectory.journal import write_all
from kernel_agent.types import Json, Malformed, RunCode, Status, Usage

NAME = "results.jsonl"


class Condition(StrEnum):
    """Who is asked, and how.

    TOOLS is the agent as it is. OFF is the same model with the same prompt and one message, in which it must answer. DIRECT is
    the same model without a word of tools in its prompt. BASE is another model (the one that was trained from), asked directly.
    """

    TOOLS = "tools"
    OFF = "off"
    DIRECT = "direct"
    BASE = "base"


@dataclass(frozen=True, kw_only=True)
class Column:
    """A condition under a transform."""

    condition: Condition
    transform: Orientation

    @property
    def name(self) -> str:
        """`tools/source`, `off/rot90`, ..."""
        return f"{self.condition}/{transform_name(self.transform)}"


def transform_name(transform: Orientation) -> str:
    """As the table's head has it: the upright image is the source."""
    return "source" if transform is Orientation.UPRIGHT else transform.value


@dataclass(frozen=True, kw_only=True)
class Result:
    """One finished run.

    Attributes:
        sample: its id; with `column` it names the run.
        score: 0 to 1; `gold` and `answer` are kept beside it.
        steps, cells: model calls, and cells that ran.
        errors: cells that failed (raised, timed out, killed) and messages that could not be read.
        recovered: errors that a later cell, which worked, followed.
        seconds: wall time of the run; model_seconds and cell_seconds are parts of it.
        notebook: path of the trajectory, from the folder of the results.
    """

    sample: str
    column: str
    score: float
    answer: str | None
    gold: Json
    question: str
    stop_reason: str
    category: str = ""
    meta: Mapping[str, Json] = field(default_factory=dict)
    steps: int = 0
    cells: int = 0
    errors: int = 0
    recovered: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    seconds: float = 0.0
    model_seconds: float = 0.0
    cell_seconds: float = 0.0
    notebook: str = ""
    judged: Json = None

    @property
    def key(self) -> tuple[str, str]:
        """What names the run."""
        return (self.column, self.sample)

    @property
    def condition(self) -> str:
        """The part of the column before the slash."""
        return self.column.partition("/")[0]

    @property
    def transform(self) -> str:
        """The part of the column after the slash."""
        return self.column.partition("/")[2]


def effort(trajectory: Trajectory) -> dict[str, Any]:
    """The fields of a `Result` that say what a run took, read off its trajectory."""
    good = [step.cell is not None and step.cell.status is Status.OK for step in trajectory.steps]
    bad = [
        isinstance(step.action, Malformed) or (step.cell is not None and step.cell.status is not Status.OK)
        for step in trajectory.steps
    ]
    usage: Usage = trajectory.usage
    return {
        "steps": len(trajectory.steps),
        "cells": sum(step.cell is not None and isinstance(step.action, RunCode) for step in trajectory.steps),
        "errors": sum(bad),
        "recovered": sum(failed and any(good[index + 1 :]) for index, failed in enumerate(bad)),
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "cached_tokens": usage.cached_tokens,
        "seconds": round(trajectory.turns[-1].seconds, 4) if trajectory.turns else 0.0,
        "model_seconds": round(sum(step.completion.seconds for step in trajectory.steps), 4),
        "cell_seconds": round(sum(step.cell.seconds for step in trajectory.steps if step.cell is not None), 4),
    }


_FIELDS = frozenset(item.name for item in fields(Result))


class Journal:
    """`results.jsonl` of a folder: one line with the settings, then one a result. One process at a time writes to it."""

    def __init__(self, folder: Path, settings: Mapping[str, Json]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / NAME
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            raise StorageError(
                f"{self.path} is being written by another evaluation: wait for it, or take another --out."
            ) from error
        try:
            self.done: dict[tuple[str, str], Result] = {}
            self._open(orjson.loads(orjson.dumps(settings, option=orjson.OPT_SORT_KEYS)))
        except BaseException:
            os.close(self._file)
            raise

    def _open(self, settings: Json) -> None:
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):  # the process was killed in the middle of a line
            os.ftruncate(self._file, len(whole))
        lines = list(_lines(whole))
        if not lines:
            self._append({"settings": settings})
            return
        before = lines[0].get("settings") if isinstance(lines[0], dict) else None
        if before != settings:
            changed = sorted(k for k in {*(before or {}), *settings} if (before or {}).get(k) != settings.get(k))
            raise InputError(
                f"{self.path} was made with other settings ({', '.join(changed)}): take another --out, or add --force to "
                "begin anew."
            )
        self.done = {result.key: result for result in map(_result, lines[1:])}

    def add(self, result: Result) -> None:
        """Keep a result. It is on the disk when this returns. StorageError where that fails."""
        self._append(asdict(result))
        self.done[result.key] = result

    def _append(self, line: Json) -> None:
        before = os.fstat(self._file).st_size
        try:
            write_all(self._file, orjson.dumps(line) + b"\n")
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, before)  # half a line would spoil the next one
            raise StorageError(
                f"{self.path} cannot be written ({error.strerror}): make room and run it again."
            ) from error

    def close(self) -> None:
        """Let others write."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_results(folder: Path) -> tuple[Mapping[str, Json], list[Result]]:
    """(settings, results) of a folder, whether or not somebody writes to it now. InputError where there are none."""
    path = folder / NAME
    if not path.is_file():
        raise InputError(f"{folder} holds no {NAME}: give the --out folder of an evaluation.")
    data = path.read_bytes()
    lines = list(_lines(data[: data.rfind(b"\n") + 1]))
    if not lines or "settings" not in lines[0]:
        raise InputError(f"{path} does not begin with settings: it was not written by an evaluation.")
    return lines[0]["settings"], list({r.key: r for r in map(_result, lines[1:])}.values())


def _lines(data: bytes) -> Iterator[Json]:
    for line in data.splitlines():
        if line.strip():
            yield orjson.loads(line)


def _result(line: Mapping[str, Json]) -> Result:
    return Result(**{key: value for key, value in line.items() if key in _FIELDS})
