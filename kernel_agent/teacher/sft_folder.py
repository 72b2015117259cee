"""Supervised runs on disk: `sft.jsonl` with `images/`, and `dropped.jsonl` with what was thrown away and why.

Guarantees: which lessons are tried, and the order of the file, depend on the arguments alone, not on how many run at once. A run
is recorded when its pictures are on disk; killed and started again with the same arguments nothing finished is run again;
with others it refuses. `sft.jsonl` appears when all is there. Lessons that are dropped are made up for by further ones, at
most as many again as were asked for. A kernel that cannot be had, a disk that is full and a server that is gone stop it.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from kernel_agent.errors import InputError, StorageError
from kernel_agent.models import Model
from kernel_agent.session import KernelPool
from kernel_agent.tasks.ground_truth import GroundTruth
from kernel_agent.tasks.typefaces import Split, typefaces
from kernel_agent.teacher import by_model, curriculum, planning, trial
from kernel_agent.teacher.conversations import IMAGES, conversation
from kernel_agent.teacher.plan import Plan, Shape
from kernel_agent.trajectory import Trajectory
from kernel_agent.types import FORMATS, Json
from kernel_agent.waiting import all_of

SFT, DROPPED = "sft.jsonl", "dropped.jsonl"
_STATE, _RECORDS = "sft.json", "records"


class Source(Protocol):
    """Where lessons come from. All of it is fixed by `settings`."""

    @property
    def settings(self) -> dict[str, Json]:
        """What the lessons depend on."""

    @property
    def size(self) -> int | None:
        """How many lessons there are; None for any number."""

    async def teach(self, index: int, folder: Path, pool: KernelPool, runs: Path | None) -> dict[str, Json]:
        """Lesson `index`: {"kept": conversation} or {"dropped": {...}}."""


@dataclass(frozen=True, kw_only=True)
class Generated:
    """Generated tasks, the program as the teacher."""

    seed: int
    split: Split = Split.TRAIN

    @property
    def size(self) -> int | None:
        """As many as one likes."""
        return None

    @property
    def settings(self) -> dict[str, Json]:
        """What the lessons depend on."""
        return {"teacher": "program", "seed": self.seed, "split": str(self.split)}

    async def teach(self, index: int, folder: Path, pool: KernelPool, runs: Path | None) -> dict[str, Json]:
        """See `Source`."""
        lesson, packed, plan = await asyncio.to_thread(self._plan, index)
        name = lesson.made.task.id
        picture = folder / _RECORDS / f"{name}{lesson.made.suffix}"
        picture.write_bytes(packed)
        try:
            trajectory = await trial.run(plan, picture, pool, save_to=runs and runs / f"{name}.ipynb")
            return _outcome(plan, trajectory, folder)
        finally:
            picture.unlink()

    def _plan(self, index: int) -> tuple[curriculum.Lesson, bytes, Plan]:
        lesson = curriculum.lesson(self.seed, index, self.split)
        packed = lesson.made.packed()
        image = Image.open(io.BytesIO(packed)).convert("RGB")  # the file's pixels: a JPEG's are not those drawn
        rng = np.random.default_rng([self.seed, index, 11])
        return lesson, packed, planning.plan(lesson.made.task, image, lesson.shape, rng, seen=lesson.seen)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Tasks of any data set, a model as the teacher. `tries` are whole runs."""

    tasks: Sequence[GroundTruth]
    model: Model
    seed: int = 0
    tries: int = 2
    data: str = ""

    @property
    def size(self) -> int | None:
        """One lesson a task."""
        return len(self.tasks)

    @property
    def settings(self) -> dict[str, Json]:
        """What the lessons depend on; a sampled model's words do not repeat."""
        return {"teacher": self.model.name, "seed": self.seed, "data": self.data, "tries": self.tries}

    async def teach(self, index: int, folder: Path, pool: KernelPool, runs: Path | None) -> dict[str, Json]:
        """See `Source`."""
        task = self.tasks[index]
        shapes = by_model.shapes_of(task)
        if not shapes or task.image is None:
            return _dropped(task, None, "a crop without a target" if task.image else "no picture")
        shape = shapes[index % len(shapes)]
        try:
            image = await asyncio.to_thread(lambda: Image.open(str(task.image), formats=FORMATS).convert("RGB"))
        except (OSError, ValueError) as error:
            return _dropped(task, shape, f"the picture cannot be read: {error}")
        plan = by_model.outline(task, image, shape, np.random.default_rng([self.seed, index]))
        reason: str | None = None
        for _ in range(self.tries):
            model = by_model.NotedModel(self.model, plan, failed=reason)
            save = runs and runs / f"{task.id}.ipynb"
            trajectory = await trial.run(plan, Path(task.image), pool, model=model, save_to=save)
            reason = trial.difference(plan, trajectory)
            if reason is None:
                break
        return _outcome(plan, trajectory, folder)


def _outcome(plan: Plan, trajectory: Trajectory, folder: Path) -> dict[str, Json]:
    reason = trial.difference(plan, trajectory)
    if reason is not None:
        return _dropped(plan.task, plan.shape, reason)
    return {"kept": conversation(plan, trajectory, folder)}


def _dropped(task: GroundTruth, shape: Shape | None, reason: str) -> dict[str, Json]:
    return {"dropped": {"task": task.id, "type": str(shape) if shape else None, "reason": reason}}


@dataclass(frozen=True, kw_only=True)
class Written:
    """How many runs of each shape there are, and how many lessons were dropped."""

    shapes: Counter[str]
    dropped: int

    @property
    def count(self) -> int:
        """All runs."""
        return self.shapes.total()


async def write_sft(
    folder: str | Path,
    source: Source,
    count: int,
    pool: KernelPool,
    *,
    notebooks: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> Written:
    """Write `count` runs (fewer where the source has no more) into `folder`, or go on with it.

    `progress` is told how many are kept. With `notebooks` every run's notebook is kept under `runs/`, of dropped ones too.
    Raises InputError, StorageError, KernelError, ModelError.
    """
    if count < 1:
        raise InputError(f"{count} runs: give at least 1")
    root = Path(folder)
    try:
        if not _begin(root, {**source.settings, "count": count}):
            return _written(root)
        runs = root / "runs" if notebooks else None
        if runs:
            runs.mkdir(exist_ok=True)
        most = 2 * count + 16 if source.size is None else source.size
        kept, tried = 0, 0
        while kept < count and tried < most:
            batch = range(tried, min(tried + count - kept, most))
            kept += await _batch(root, source, batch, pool, runs, partial(_further, progress, kept))
            tried = batch.stop
        return _gather(root, tried)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"{folder} cannot be written: {error}; choose another folder or make room") from error


def _further(progress: Callable[[int], None], before: int, done: int) -> None:
    progress(before + done)


async def _batch(
    root: Path,
    source: Source,
    indices: Sequence[int],
    pool: KernelPool,
    runs: Path | None,
    progress: Callable[[int], None],
) -> int:
    """Teach those that have no record; how many of all are kept. A failure stops the others, whose records stay."""
    kept = sum("kept" in record for index in indices if (record := _read(root, index)))
    progress(kept)
    gate = asyncio.Semaphore(pool.size + 1)  # one is drawn while the others run

    async def one(index: int) -> None:
        nonlocal kept
        async with gate:
            outcome = await source.teach(index, root, pool, runs)
            part = root / _RECORDS / f"{index:08d}.part"
            part.write_text(json.dumps(outcome, ensure_ascii=False), encoding="utf-8")
            part.replace(part.with_suffix(".json"))
            kept += "kept" in outcome
            progress(kept)

    await all_of(one(index) for index in indices if _read(root, index) is None)
    return kept


def _read(root: Path, index: int) -> dict[str, Any] | None:
    file = root / _RECORDS / f"{index:08d}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def _begin(root: Path, wanted: dict[str, Json]) -> bool:
    """Whether there is work to do in the folder; claims it. InputError where it holds something else."""
    state = root / _STATE
    if state.exists():
        found = json.loads(state.read_text(encoding="utf-8"))
        if found != wanted:
            differing = ", ".join(f"{key}={found.get(key)!r}" for key in wanted if found.get(key) != wanted[key])
            raise InputError(
                f"{root} holds other runs ({differing}): give another folder, or the same arguments to go on"
            )
    elif root.exists() and any(root.iterdir()):
        raise InputError(f"{root} is not empty and was not made by this command: give another folder")
    if (root / SFT).exists():
        return False
    for part in (_RECORDS, IMAGES):
        (root / part).mkdir(parents=True, exist_ok=True)
    state.write_text(json.dumps(wanted), encoding="utf-8")
    return True


def _gather(root: Path, tried: int) -> Written:
    records = [record for index in range(tried) if (record := _read(root, index))]
    for name, key in ((DROPPED, "dropped"), (SFT, "kept")):  # the runs last, as they say that all is there
        part = root / f"{name}.part"
        with part.open("w", encoding="utf-8") as out:
            for record in records:
                if key in record:
                    out.write(json.dumps(record[key], ensure_ascii=False) + "\n")
            out.flush()
            os.fsync(out.fileno())
        part.replace(root / name)
    shutil.rmtree(root / _RECORDS)
    return _written(root)


def _written(root: Path) -> Written:
    lines = (root / SFT).read_text(encoding="utf-8").splitlines()
    shapes = Counter(json.loads(line)["metadata"]["type"] for line in lines)
    return Written(shapes=shapes, dropped=len((root / DROPPED).read_text(encoding="utf-8").splitlines()))


def generated(seed: int, split: Split = Split.TRAIN) -> Generated:
    """Generated lessons; raises NoFontsError before anything is written."""
    typefaces(split)
    return Generated(seed=seed, split=split)
