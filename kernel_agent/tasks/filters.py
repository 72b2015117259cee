"""Which tasks of a set to leave out: duplicates, what a test set has, what is too easy or too hard to learn from.

Each filter says what it leaves out and why ({id: reason}); nothing is written here. Pictures are compared by `image_hash`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from kernel_agent.errors import InputError
from kernel_agent.tasks.ground_truth import GroundTruth
from kernel_agent.tasks.image_hash import SAME, Hash, nearest, turned
from kernel_agent.types import FORMATS

Progress = Callable[[int], None]
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def hashes(tasks: Sequence[GroundTruth], progress: Progress = lambda done: None) -> dict[str, Hash]:
    """Hashes (8, 9) of the tasks' pictures by task id; tasks without a picture have none. InputError names a bad file."""
    out: dict[str, Hash] = {}
    for number, task in enumerate(tasks, 1):
        if task.image is not None:
            out[task.id] = hash_of(Path(task.image))
        progress(number)
    return out


def hash_of(file: Path) -> Hash:
    """Hashes (8, 9) of a picture file. InputError names it where it cannot be decoded."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            return turned(image)
    except (OSError, InputError) as error:
        raise InputError(f"{file}: {error}") from error


def duplicates(tasks: Sequence[GroundTruth], known: Mapping[str, Hash]) -> dict[str, str]:
    """Tasks that ask what an earlier one asks, in the same words, about the same picture, however that is turned."""
    out: dict[str, str] = {}
    groups: dict[str, list[GroundTruth]] = defaultdict(list)
    for task in tasks:
        groups[" ".join(task.question.split()).casefold()].append(task)
    for group in groups.values():
        kept: list[GroundTruth] = []
        for task in group:
            if task.id not in known:
                continue
            if kept:
                where, distance = nearest(known[task.id][None], np.stack([known[one.id][0] for one in kept]))
                if distance[0] < SAME:
                    out[task.id] = f"the same question about the same picture as {kept[int(where[0])].id}"
                    continue
            kept.append(task)
    return out


def contaminated(known: Mapping[str, Hash], test: Mapping[str, Hash]) -> dict[str, str]:
    """Tasks whose picture a test set has, however it is turned there. `test` is by the name to be told."""
    if not test or not known:
        return {}
    names = list(test)
    where, distance = nearest(np.stack(list(known.values())), np.stack([test[name][0] for name in names]))
    return {
        task: f"its picture is that of {names[int(index)]} ({share:.1%} differs)"
        for task, index, share in zip(known, where, distance, strict=True)
        if share < SAME
    }


def one_sided(rollouts: Mapping[str, Sequence[bool]]) -> dict[str, str]:
    """Tasks that every rollout got right, or every one wrong: a group without a difference teaches nothing (section 5)."""
    out = {}
    for task, right in rollouts.items():
        if right and len(set(right)) == 1:
            out[task] = f"all {len(right)} rollouts are {'right' if right[0] else 'wrong'}"
    return out


def pictures(place: str | Path) -> Iterable[Path]:
    """The picture files of a folder, and of the folders in it, by name. InputError where it has none."""
    root = Path(place)
    found = sorted(file for file in root.rglob("*") if file.suffix.lower() in PICTURES) if root.is_dir() else []
    if not found:
        raise InputError(f"{root} has no pictures ({', '.join(PICTURES)}): give a folder that has some")
    return found
