"""A benchmark in the manner of MVToolBench from any pictures whose text is annotated in HierText's schema.

Guarantees: the kinds of question are asked as evenly as the pictures allow, the five orientations take turns, both frames'
boxes are kept, and the stored picture is lossless (PNG): its orientation undone is the source picture, pixel for pixel. What
cannot be used is named with its reason and left out. What is not guaranteed: that the annotations are right.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image

from kernel_agent.errors import InputError, StorageError
from kernel_agent.session.png import write_png
from kernel_agent.tasks import mvtool
from kernel_agent.tasks.annotation import Annotation
from kernel_agent.tasks.dataset import IMAGES, TASKS, read_tasks, write_tasks
from kernel_agent.tasks.drawing import Question
from kernel_agent.tasks.ground_truth import GroundTruth, Operation, correction
from kernel_agent.tasks.orientation import Orientation
from kernel_agent.types import FORMATS

Opener: TypeAlias = Callable[[str], Image.Image]
"""The upright picture of an image id, RGB. Raises InputError where there is none that can be used."""
TURNED = tuple(orientation for orientation in Orientation if orientation is not Orientation.UPRIGHT)


@dataclass(frozen=True, kw_only=True)
class Built:
    """How many tasks were written, and which pictures were left out: image id and reason."""

    count: int = 0
    left_out: list[tuple[str, str]] = field(default_factory=list)


def build(
    annotations: Iterable[Annotation],
    opener: Opener,
    folder: str | Path,
    count: int,
    seed: int = 0,
    *,
    split: str = "test",
    source: str = "hiertext",
    progress: Callable[[int], None] = lambda done: None,
) -> Built:
    """Write up to `count` tasks, one a picture, into a folder that holds no dataset yet. Raises InputError, StorageError.

    Stops reading annotations when there are enough.
    """
    root = Path(folder)
    if (root / TASKS).exists():
        raise InputError(f"{root} holds a dataset already: give another folder")
    tasks: list[GroundTruth] = []
    built = Built()
    used: Counter[str] = Counter()
    try:
        (root / IMAGES).mkdir(parents=True, exist_ok=True)
        for annotation in annotations:
            if len(tasks) == count:
                break
            # a picture's question does not depend on which other pictures there are, but for its kind
            rng = np.random.default_rng([seed, zlib.crc32(annotation.image_id.encode())])
            try:
                kinds = sorted(mvtool.KINDS, key=lambda kind: used[kind])
                asked = mvtool.questions(annotation, rng, kinds)
                if not asked:
                    raise InputError("no passage that is small, legible and named by its words")
                image = opener(annotation.image_id)
                if image.size != annotation.size:
                    raise InputError(f"the picture is {image.size} px, its annotation says {annotation.size}")
            except InputError as error:
                built.left_out.append((annotation.image_id, str(error)))
                continue
            used[asked[0].kind] += 1
            name = f"mvtool-{split}-{seed}-{len(tasks):06d}"
            turned = TURNED[len(tasks) % len(TURNED)]
            shown = turned.apply(image)
            (root / IMAGES / f"{name}.png").write_bytes(write_png("RGB", shown.size, shown.tobytes()))
            tasks.append(_task(name, asked[0], turned, image.size, split, f"{source}:{annotation.image_id}"))
            progress(len(tasks))
        write_tasks(root, tasks)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"{root} cannot be written: {error}; choose another folder or make room") from error
    return Built(count=len(tasks), left_out=built.left_out)


def _task(
    name: str, question: Question, turned: Orientation, size: tuple[int, int], split: str, source: str
) -> GroundTruth:
    assert question.box is not None
    turn = correction(turned)
    assert turn is not None
    return GroundTruth(
        id=name,
        question=question.text,
        answers=question.answers,
        kind=question.kind,
        answer_type=question.answer_type,
        image=f"{IMAGES}/{name}.png",
        size=size[::-1] if turned.swaps_axes else size,
        orientation=turned,
        target=turned.apply_to_box(question.box, size),
        canonical_target=question.box,
        required=(turn, Operation.CROP),
        source=source,
        split=split,
    )


def pictures_in(folder: str | Path) -> Opener:
    """Pictures named after their image id, as HierText's are."""
    root = Path(folder)

    def opened(image_id: str) -> Image.Image:
        for suffix in (".jpg", ".png", ".jpeg", ".webp"):
            if (file := root / f"{image_id}{suffix}").is_file():
                return _opened(file)
        raise InputError(f"{root} has no picture {image_id}.jpg or .png")

    return opened


def pictures_of(dataset: str | Path) -> Opener:
    """Pictures of a generated dataset, put upright. Damaged ones are refused, as their annotation is of the clean picture."""
    tasks = {task.id: task for task in read_tasks(dataset)}

    def opened(image_id: str) -> Image.Image:
        task = tasks.get(image_id)
        if task is None or task.image is None:
            raise InputError(f"{dataset} has no task {image_id}")
        if task.corruptions:
            raise InputError("the picture is damaged: generate without corruptions")
        return task.orientation.inverse.apply(_opened(Path(task.image)))

    return opened


def _opened(file: Path) -> Image.Image:
    try:
        return Image.open(file, formats=FORMATS).convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{file.name} cannot be read: {error}") from error
