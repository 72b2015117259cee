"""Which generated task becomes which kind of run. The paper gives no ratios of the five kinds; these are ours.

Of twenty runs four are single tool, six multi tool, three multi crop, four error and recovery, three without a tool; in each
kind the orientations take turns. A task is drawn so that its picture needs exactly what the run shows (section 4).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kernel_agent.tasks.annotation import bounding_box
from kernel_agent.tasks.generate import Generated, Series, generate
from kernel_agent.tasks.ground_truth import Corruption, CorruptionKind, Operation
from kernel_agent.tasks.orientation import Orientation
from kernel_agent.tasks.typefaces import Split
from kernel_agent.tasks.vocabulary import choose
from kernel_agent.teacher.plan import Shape

_S, _M, _C, _R, _N = Shape.SINGLE, Shape.MULTI, Shape.MULTI_CROP, Shape.RECOVERY, Shape.NO_TOOL
CYCLE = (_M, _S, _R, _M, _C, _N, _M, _S, _R, _M, _C, _N, _S, _M, _R, _C, _N, _M, _S, _R)
TURNED = tuple(orientation for orientation in Orientation if orientation is not Orientation.UPRIGHT)
_TEXT = (Series.MVTOOL, Series.PAGE, Series.RECEIPT, Series.SIGN, Series.LABEL)
_FIGURES = (Series.TABLE, Series.CHART, Series.DIAL, Series.GEOMETRY, Series.SIGN)
_TRIES = 40


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A task for a run of that shape; `seen` is the text at the target, where there is one."""

    shape: Shape
    made: Generated
    seen: str | None


def lesson(seed: int, index: int, split: Split = Split.TRAIN) -> Lesson:
    """Lesson `index`: always the same for a seed."""
    shape = CYCLE[index % len(CYCLE)]
    number = index // len(CYCLE) * CYCLE.count(shape) + CYCLE[: index % len(CYCLE)].count(shape)  # among its shape
    rng = np.random.default_rng([seed, index, 7])
    turned = TURNED[number % len(TURNED)]
    crop, orientation = {
        Shape.SINGLE: (number % 6 == 0, Orientation.UPRIGHT if number % 6 == 0 else turned),
        Shape.MULTI: (True, turned),
        Shape.MULTI_CROP: (True, turned if number % 2 else Orientation.UPRIGHT),
        Shape.RECOVERY: (number % 2 == 0, turned),
        Shape.NO_TOOL: (False, Orientation.UPRIGHT),
    }[shape]
    pale = shape is Shape.MULTI and number % 6 == 5
    damage = (Corruption(kind=CorruptionKind.LOW_CONTRAST, severity=4, seed=seed),) if pale else ()
    for attempt in range(_TRIES):
        series = choose(rng, _TEXT if crop else _FIGURES)
        made = generate(
            series, seed, index * _TRIES + attempt, split=split, orientation=orientation, corruptions=damage
        )
        if (Operation.CROP in made.task.required) is crop and (crop or made.task.canonical_target is None or not _small(made)):  # fmt: skip
            return Lesson(shape=shape, made=made, seen=_seen(made))
    raise AssertionError(f"{_TRIES} tasks of which none fits {shape}: the generator is broken")


def _small(made: Generated) -> bool:
    """Whether a crop would help after all, though it is not asked for."""
    box = made.task.canonical_target
    return box is not None and (box[3] - box[1]) < 12


def _seen(made: Generated) -> str | None:
    box = made.task.canonical_target
    if box is None:
        return None
    found = []
    for line in made.drawing.annotation.lines():
        for word in line.words:
            x0, y0, x1, y1 = bounding_box(word.vertices)
            if box[0] <= (x0 + x1) / 2 <= box[2] and box[1] <= (y0 + y1) / 2 <= box[3]:
                found.append(word.text)
    return " ".join(found) or None
