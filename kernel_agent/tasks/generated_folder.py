"""Generated tasks on disk: a dataset folder (see `dataset`) with the annotation of every picture beside it.

Guarantees: a folder is whole or says that it is not: `tasks.jsonl` appears when everything is there; each picture and each
record is written under another name and renamed. Started again with the same arguments, a run that was stopped goes on;
with others it refuses. What is written does not depend on the number of processes.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import cv2
import orjson

from kernel_agent.errors import InputError, StorageError
from kernel_agent.tasks.dataset import IMAGES, TASKS
from kernel_agent.tasks.generate import VERSION, Series, generate
from kernel_agent.tasks.ground_truth import Corruption
from kernel_agent.tasks.typefaces import Split, typefaces

ANNOTATIONS = "annotations.jsonl"
"""HierText's schema, one picture a line; boxes in the canonical frame, before corruptions."""
_STATE, _RECORDS = "generate.json", "records"
_CHUNK = 8


def write_dataset(
    folder: str | Path,
    series: Series,
    count: int,
    seed: int,
    *,
    split: Split = Split.TRAIN,
    corruptions: tuple[Corruption, ...] = (),
    workers: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> int:
    """Generate tasks 0 to `count` - 1 into `folder`, or go on with it; how many were drawn now.

    `progress` is told how many are there. `workers` processes draw (None: one a core); the result does not depend on it.
    Raises InputError where the folder holds something else, StorageError, NoFontsError.
    """
    if count < 1:
        raise InputError(f"{count} tasks: give at least 1")
    typefaces(split)  # a missing font is said before anything is written
    root = Path(folder)
    wanted = {
        "version": VERSION,
        "series": str(series),
        "count": count,
        "seed": seed,
        "split": str(split),
        "corruptions": [[str(c.kind), c.severity, c.seed] for c in corruptions],
    }
    try:
        if not _begin(root, wanted):
            progress(count)
            return 0
        starts = range(0, count, _CHUNK)
        missing = [start for start in starts if not _record(root, start, TASKS).exists()]
        done = count - sum(min(_CHUNK, count - start) for start in missing)
        drawn = 0
        progress(done)
        work = partial(_chunk, root, series, seed, count, split, corruptions)
        for number in _mapped(work, missing, workers or os.cpu_count() or 1):
            done, drawn = done + number, drawn + number
            progress(done)
        _gather(root, starts)
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {error}; choose another folder or make room") from error
    return drawn


def _begin(root: Path, wanted: dict[str, Any]) -> bool:
    """Whether there is work to do in the folder; claims it. InputError where it holds something else."""
    state = root / _STATE
    if state.exists():
        found = json.loads(state.read_text(encoding="utf-8"))
        if found != wanted:
            differing = sorted(key for key in wanted if found.get(key) != wanted[key])
            raise InputError(
                f"{root} holds other tasks ({', '.join(f'{key}={found.get(key)!r}' for key in differing)}): give another "
                "folder, or the same arguments to go on"
            )
        if (root / TASKS).exists():
            return False
    elif (root / TASKS).exists() or (root / IMAGES).exists():
        raise InputError(f"{root} holds a dataset that was not generated here: give another folder")
    for part in (IMAGES, _RECORDS):
        (root / part).mkdir(parents=True, exist_ok=True)
    _write(state, json.dumps(wanted).encode())
    return True


def _mapped(work: Callable[[int], int], starts: list[int], workers: int) -> Iterator[int]:
    if workers == 1 or len(starts) < 2:
        yield from map(work, starts)
        return
    with _uninterrupted() as interrupted:
        started = multiprocessing.get_context("spawn").Pool(min(workers, len(starts)), _worker)
    with started as pool:
        if interrupted:
            raise KeyboardInterrupt
        yield from pool.imap_unordered(work, starts)
        pool.close()
        pool.join()  # rather than be ended in the middle of leaving


@contextmanager
def _uninterrupted() -> Iterator[list[int]]:
    """Ctrl-C goes to all, and the first process ends the others: those begun in here never get it. Here it is in the list."""
    came: list[int] = []
    if not hasattr(signal, "pthread_sigmask") or threading.current_thread() is not threading.main_thread():
        yield came
        return
    resource_tracker.ensure_running()  # as it starts it lets signals through again
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # this thread's, and so the processes'
    handler = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield came
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler or signal.SIG_DFL)


def _worker() -> None:
    """OpenCV's threads only stand in each other's way where there is a process a core; and nothing drawn has cycles."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where they could not be kept from it
    cv2.setNumThreads(1)
    gc.set_threshold(100_000, 50, 50)


def _chunk(
    root: Path,
    series: Series,
    seed: int,
    count: int,
    split: Split,
    corruptions: tuple[Corruption, ...],
    start: int,
) -> int:
    """Draw some tasks; the record of them is written last, so what it names is there."""
    tasks, annotations = [], []
    for index in range(start, min(start + _CHUNK, count)):
        made = generate(series, seed, index, split=split, corruptions=corruptions)
        assert made.task.image is not None
        _write(root / made.task.image, made.packed(), sync=False)
        tasks.append(orjson.dumps(made.task.to_json()))
        annotations.append(orjson.dumps(made.drawing.annotation.to_json() | {"image_id": made.task.id}))
    for name, lines in ((ANNOTATIONS, annotations), (TASKS, tasks)):
        _write(_record(root, start, name), b"\n".join([*lines, b""]), sync=False)
    return len(tasks)


def _record(root: Path, start: int, name: str) -> Path:
    return root / _RECORDS / f"{start:08d}-{name}"


def _gather(root: Path, starts: range) -> None:
    """The records become the two files that readers want; the tasks last, as they say that all is there."""
    os.sync()  # the pictures and records before what says that all are there
    for name in (ANNOTATIONS, TASKS):
        part = root / (name + ".part")
        with part.open("wb") as out:
            for start in starts:
                out.write(_record(root, start, name).read_bytes())
            out.flush()
            os.fsync(out.fileno())
        part.replace(root / name)
    shutil.rmtree(root / _RECORDS)


def _write(path: Path, data: bytes, *, sync: bool = True) -> None:
    part = path.with_name(path.name + ".part")
    with part.open("wb") as out:
        out.write(data)
        if sync:
            out.flush()
            os.fsync(out.fileno())
    part.replace(path)
