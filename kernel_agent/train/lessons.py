"""What `codevision train grpo` trains on: folders of `codevision data generate`, or the released CodeVision-RL files."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from kernel_agent.errors import InputError
from kernel_agent.tasks.dataset import TASKS, read_tasks
from kernel_agent.tasks.ground_truth import GroundTruth, Operation, correction
from kernel_agent.tasks.released import Problem, RowError, read_picture
from kernel_agent.tasks.released.codevision_rl import ReleasedTask, load
from kernel_agent.train.rollout import Lesson


def read_lessons(path: Path, limit: int | None = None) -> tuple[dict[str, Lesson], list[str]]:
    """Lessons by id, and what was left out with the reason. Raises InputError where there is nothing to train on."""
    left_out: list[str] = []
    ours = (path.is_dir() and (path / TASKS).is_file()) or path.suffix == ".jsonl"
    found = _generated(path, left_out) if ours else _released(path, left_out)
    lessons: dict[str, Lesson] = {}
    for lesson in islice(found, limit):
        if lessons.setdefault(lesson.truth.id, lesson) is not lesson:
            raise InputError(f"{path}: task id {lesson.truth.id!r} comes twice: ids are unique in a dataset")
    if not lessons:
        raise InputError(f"{path} holds no task to train on" + "".join(f"; {why}" for why in left_out[:3]))
    return lessons, left_out


def _generated(path: Path, left_out: list[str]) -> Iterator[Lesson]:
    for task in read_tasks(path):
        try:
            picture = read_picture(task.image, folder=Path())
        except RowError as error:
            left_out.append(f"{task.id}: {error}")
            continue
        yield Lesson(truth=task, images=(picture,))


def _released(path: Path, left_out: list[str]) -> Iterator[Lesson]:
    for row in load(path):
        if isinstance(row, Problem):
            left_out.append(str(row))
            continue
        try:
            truth = _truth(row)
        except InputError as error:
            left_out.append(f"{row.id}: {error}")
            continue
        yield Lesson(truth=truth, images=row.images)


def _truth(row: ReleasedTask) -> GroundTruth:
    """Its boxes are taken to be those of the picture as it is given (see codevision_rl.py)."""
    turn = correction(row.orientation)
    crop = (Operation.CROP,) if "crop" in row.transforms else ()
    return GroundTruth(
        id=row.id,
        question=row.question,
        answers=row.truths,
        orientation=row.orientation,
        target=row.box,
        required=(*((turn,) if turn else ()), *crop),
        source=row.source,
    )
