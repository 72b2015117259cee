"""From a task, its picture and a shape to a plan with every message and the picture that each must give.

Guarantees: what a plan needs is what the task needs: a turned picture is turned back, a small text is cropped; windows of a
multi-crop plan each lie inside the one before and hold the target; a mistake is mended by the next step. Everything is drawn
from the generator handed in. The canonical pictures are computed here, by Pillow, and never by the code under test.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from kernel_agent.errors import InputError
from kernel_agent.session.images_view import pixel_sha256
from kernel_agent.tasks.ground_truth import CorruptionKind, GroundTruth, Operation, correction, effect
from kernel_agent.tasks.orientation import Orientation
from kernel_agent.tasks.vocabulary import choose
from kernel_agent.teacher import code, wording
from kernel_agent.teacher.code import Window
from kernel_agent.teacher.plan import CONTRAST, Mistake, Plan, PlannedStep, Shape
from kernel_agent.types import Box, Size, Status

READABLE = 48
"""A crop lower than this (px) is enlarged."""
_PALE = (CorruptionKind.LOW_LIGHT, CorruptionKind.LOW_CONTRAST)


def plan(
    task: GroundTruth, image: Image.Image, shape: Shape, rng: np.random.Generator, *, seen: str | None = None
) -> Plan:
    """A plan for `task`, whose shown picture is `image` (RGB). `seen` is the text at the target.

    Raises InputError where the task does not have what the shape needs.
    """
    run = _Run(task, image, rng)
    turn = correction(task.orientation)
    crops = Operation.CROP in task.required
    needs = {
        Shape.SINGLE: (turn is not None) != crops,
        Shape.MULTI: (turn is not None) and crops,
        Shape.MULTI_CROP: crops,
        Shape.RECOVERY: turn is not None or crops,
        Shape.NO_TOOL: turn is None and not crops,
    }
    if not needs[shape] or (crops and run.target is None):
        raise InputError(f"task {task.id} requires {list(task.required)}: it cannot be a {shape} run")
    mistake = run.mistake(turn, crops) if shape is Shape.RECOVERY else None
    if mistake is Mistake.MISSED_CROP:
        if turn is not None:
            run.turn(turn)
        run.missed_crop()
    elif mistake is not None:
        run.mistaken(mistake, turn)
    if turn is not None and mistake is not Mistake.MISSED_CROP:
        run.turn(turn)
    if any(damage.kind in _PALE for damage in task.corruptions):
        run.enhance()
    if crops:
        run.crop(int(rng.integers(2, 4)) if shape is Shape.MULTI_CROP else 1)
    thought = wording.read(rng, task, seen)
    if not run.steps:
        thought = f"{wording.lies(rng, task.orientation)} It is large enough to read as it is. {thought}"
    return Plan(task=task, shape=shape, steps=tuple(run.steps), final=wording.answer(thought, task.answers[0]))


class _Run:
    """The pictures so far, as the kernel will number them, and where the target lies in the newest."""

    def __init__(self, task: GroundTruth, image: Image.Image, rng: np.random.Generator) -> None:
        self.task, self.rng = task, rng
        self.steps: list[PlannedStep] = []
        self.pictures = [image]
        self.current = 0  # the picture to go on from
        self.target: Box | None = task.target
        self.said = ""  # what the next thought begins with

    @property
    def image(self) -> Image.Image:
        return self.pictures[self.current]

    def add(
        self, tool: str, thought: str, source: str, given: Image.Image | None, *, mistake: Mistake | None = None
    ) -> None:
        """A step on the current picture; `given` is what it must give, None where it must raise."""
        message = wording.call(
            f"{self.said} {thought}".strip(), source, wording.described(self.rng, tool), self.current
        )
        self.steps.append(
            PlannedStep(
                tool=tool,
                message=message,
                status=Status.OK if given is not None else Status.ERROR,
                pixel_sha256=None if given is None else pixel_sha256(given),
                mistake=mistake,
            )
        )
        self.said = "" if mistake is None else wording.again(self.rng, mistake)
        if given is not None:
            self.pictures.append(given)

    def turn(self, operation: Operation) -> None:
        thought = wording.put_right(self.rng, operation)
        if not self.steps or self.steps[-1].mistake is Mistake.WRONG_TURN:
            thought = f"{wording.lies(self.rng, self.task.orientation)} {thought}"
        given = code.turned(operation, self.image)
        self.add(operation, thought, code.turning(self.rng, operation), given)
        if self.target is not None:
            self.target = effect(operation).apply_to_box(self.target, self.image.size)
        self.current = len(self.pictures) - 1

    def enhance(self) -> None:
        self.add(CONTRAST, "It is pale; more contrast will help.", code.enhancing(), code.enhanced(self.image))
        self.current = len(self.pictures) - 1

    def crop(self, count: int) -> None:
        """`count` windows, each inside the one before, the last one close around the target."""
        assert self.target is not None
        windows = _narrowing(self.rng, self.target, self.image.size, count)
        for number, window in enumerate(windows):
            last = number == count - 1
            enlarge = min(4, -(-READABLE // (window[3] - window[1]))) if last else 1
            thought = wording.closer(self.rng, enlarge=enlarge > 1, narrower=number > 0)
            if not self.steps:
                thought = f"{wording.lies(self.rng, Orientation.UPRIGHT)} {thought}"
            left, top = (0, 0) if number == 0 else windows[number - 1][:2]
            local: Window = (window[0] - left, window[1] - top, window[2] - left, window[3] - top)
            given = code.cropped(local, enlarge, self.image)
            self.add(Operation.CROP, thought, code.cropping(self.rng, local, enlarge), given)
            self.current = len(self.pictures) - 1

    def mistake(self, turn: Operation | None, crops: bool) -> Mistake:
        kinds = [Mistake.CODE_ERROR, Mistake.BAD_CALL]
        if turn is not None:
            kinds.append(Mistake.WRONG_TURN)
        if crops and _beside(self.rng, self.target or (0, 0, 1, 1), self.image.size) is not None:
            kinds.append(Mistake.MISSED_CROP)
        return choose(self.rng, kinds)

    def mistaken(self, mistake: Mistake, turn: Operation | None) -> None:
        """The mistake in place of the first step that is needed."""
        needed = turn or Operation.CROP
        thought = f"{wording.lies(self.rng, self.task.orientation)} "
        if mistake is Mistake.WRONG_TURN:
            wrong = choose(self.rng, [one for one in Operation if one not in (turn, Operation.CROP)])
            given = code.turned(wrong, self.image)
            thought = "The picture is not upright. " + wording.put_right(self.rng, wrong)
            self.add(wrong, thought, code.turning(self.rng, wrong), given, mistake=mistake)
            return
        thought += wording.closer(self.rng, enlarge=False, narrower=False) if turn is None else wording.put_right(self.rng, turn)  # fmt: skip
        if mistake is Mistake.CODE_ERROR:
            window = None if self.target is None else _narrowing(self.rng, self.target, self.image.size, 1)[0]
            source = code.failing(self.rng, needed, window)
            self.add(needed, thought, source, None, mistake=mistake)
            return
        source = "result = image" if turn is None else code.turning(self.rng, turn)
        message = wording.call(thought, source, wording.described(self.rng, needed), len(self.pictures))
        self.steps.append(PlannedStep(tool=needed, message=message, status=Status.MALFORMED, mistake=mistake))
        self.said = wording.again(self.rng, mistake)

    def missed_crop(self) -> None:
        assert self.target is not None
        window = _beside(self.rng, self.target, self.image.size)
        assert window is not None
        thought = wording.closer(self.rng, enlarge=False, narrower=False)
        if not self.steps:
            thought = f"{wording.lies(self.rng, Orientation.UPRIGHT)} {thought}"
        given = code.cropped(window, 1, self.image)
        self.add(Operation.CROP, thought, code.cropping(self.rng, window, 1), given, mistake=Mistake.MISSED_CROP)


def _narrowing(rng: np.random.Generator, target: Box, size: Size, count: int) -> list[Window]:
    """`count` nested windows in one frame, from coarse to the target with a margin of 10 to 35 percent of its height."""
    pad = max(3.0, (target[3] - target[1]) * float(rng.uniform(0.1, 0.35)))
    tight = (
        max(0, int(target[0] - pad)),
        max(0, int(target[1] - pad)),
        min(size[0], int(np.ceil(target[2] + pad))),
        min(size[1], int(np.ceil(target[3] + pad))),
    )
    out = [tight]
    whole = (0, 0, *size)
    for level in range(count - 1, 0, -1):
        near = rng.uniform(level / count, (level + 0.6) / count, 4)  # of the way from the whole picture, edge by edge
        inner = out[0]
        outer = [round(whole[k] + (tight[k] - whole[k]) * float(near[k])) for k in range(4)]
        x0, y0 = min(outer[0], inner[0]), min(outer[1], inner[1])
        x1, y1 = max(outer[2], inner[2]), max(outer[3], inner[3])
        out.insert(0, (x0, y0, x1, y1))
    return out


def _beside(rng: np.random.Generator, target: Box, size: Size) -> Window | None:
    """A window of the target's size (with a margin) that lies near it and does not touch it; None where there is no room."""
    x0, y0, x1, y1 = _narrowing(rng, target, size, 1)[0]
    width, height = x1 - x0, y1 - y0
    gap = int(height * rng.uniform(1.2, 2.5)) + 4
    places = [(x0, y0 + gap + height), (x0, y0 - gap - height)]
    fitting = [place for place in places if place[1] >= 0 and place[1] + height <= size[1]]
    if not fitting:
        return None
    left, top = choose(rng, fitting)
    return left, top, left + width, top + height
