"""The one form in which tasks lie on disk: a folder with `tasks.jsonl` and `images/`.

One line of `tasks.jsonl` is one `GroundTruth`; its `image` is a path relative to that file. Writing is atomic: the file is
complete or absent, also when the machine stops in the middle (a `.part` beside it may be left). Reading is strict and
lazy; a bad line is an InputError that names file, line and field. What is not guaranteed: that the pictures exist, which is
found out when they are opened.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from kernel_agent.errors import InputError, StorageError
from kernel_agent.tasks.ground_truth import GroundTruth

TASKS, IMAGES = "tasks.jsonl", "images"


def read_tasks(path: str | Path) -> Iterator[GroundTruth]:
    """Tasks of a dataset folder or of a JSON lines file, in order, with absolute paths of pictures. Raises InputError."""
    file = Path(path)
    file = file / TASKS if file.is_dir() else file
    if not file.is_file():
        raise InputError(f"{file} is no file: give a dataset folder (with {TASKS}) or a JSON lines file of tasks")
    try:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _read(line, file, f"{file}, line {number}")
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is no text: give JSON lines, one task each") from error


def read_task(path: str | Path) -> GroundTruth:
    """The one task of a JSON file. Raises InputError."""
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}; give a JSON file with one task") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is no text: give a JSON file with one task") from error
    return _read(text, file, str(file))


def _read(text: str, file: Path, where: str) -> GroundTruth:
    try:
        task = GroundTruth.from_json(text)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    return task if task.image is None else replace(task, image=str((file.parent / task.image).absolute()))


def write_tasks(path: str | Path, tasks: Iterable[GroundTruth]) -> int:
    """Write a JSON lines file whole, or the `tasks.jsonl` of an existing folder. How many there were.

    Absolute picture paths become relative to the file. Raises InputError for an id that comes twice, StorageError.
    """
    file = Path(path)
    file = file / TASKS if file.is_dir() else file
    part = file.with_name(file.name + ".part")
    seen: set[str] = set()
    try:
        with part.open("w", encoding="utf-8") as out:
            for task in tasks:
                if task.id in seen:
                    raise InputError(f"task id {task.id!r} comes twice: ids are unique in a dataset")
                seen.add(task.id)
                out.write(json.dumps(_relative(task, file.parent).to_json(), ensure_ascii=False) + "\n")
            out.flush()
            os.fsync(out.fileno())
        part.replace(file)
    except OSError as error:
        raise StorageError(f"{file} cannot be written: {error.strerror}; choose another folder or make room") from error
    return len(seen)


def _relative(task: GroundTruth, folder: Path) -> GroundTruth:
    if task.image is None or not Path(task.image).is_absolute():
        return task
    return replace(task, image=os.path.relpath(task.image, folder.absolute()))
