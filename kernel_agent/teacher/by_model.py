"""A model as the teacher, for tasks whose words the program cannot write: any OpenAI-compatible server.

The model is told, in a note that the kept run does not have, which tool the plan has next; it writes the thought and the
code itself. What comes back is checked like any other run (`trial`): an orientation by its pixels, a crop by its lineage, the
answer by the task's truth. A run that differs is tried again with the reason in the note, then dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from PIL import Image

from kernel_agent.errors import InputError
from kernel_agent.models import Model
from kernel_agent.session.images_view import pixel_sha256
from kernel_agent.tasks.ground_truth import GroundTruth, Operation, correction
from kernel_agent.teacher.plan import Mistake, Plan, PlannedStep, Shape
from kernel_agent.types import Completion, Json, Request, TextPart

_TOOLS: Mapping[str, str] = {
    Operation.ROTATE90: "rotate image_0 by 90 degrees counter-clockwise (expand=True), and do nothing else to it",
    Operation.ROTATE180: "rotate image_0 by 180 degrees, and do nothing else to it",
    Operation.ROTATE270: "rotate image_0 by 270 degrees counter-clockwise (expand=True), and do nothing else to it",
    Operation.FLIP_HORIZONTAL: "mirror image_0 left to right (ImageOps.mirror), and do nothing else to it",
    Operation.FLIP_VERTICAL: "flip image_0 top to bottom (ImageOps.flip), and do nothing else to it",
}


def shapes_of(task: GroundTruth) -> tuple[Shape, ...]:
    """The shapes a task can be planned in, the plainest first."""
    turn, crops = correction(task.orientation), Operation.CROP in task.required
    if crops and task.target is None:
        return ()
    if turn is None and not crops:
        return (Shape.NO_TOOL,)
    plain = Shape.MULTI if turn is not None and crops else Shape.SINGLE
    return (plain, *((Shape.MULTI_CROP,) if crops else ()), Shape.RECOVERY)


def outline(task: GroundTruth, image: Image.Image, shape: Shape, rng: np.random.Generator) -> Plan:
    """A plan without words. Raises InputError where the task does not have what the shape needs."""
    if shape not in shapes_of(task):
        raise InputError(f"task {task.id} requires {list(task.required)}: it cannot be a {shape} run")
    steps: list[PlannedStep] = []
    turn = correction(task.orientation)
    first = turn or Operation.CROP
    if shape is Shape.RECOVERY:
        steps.append(PlannedStep(tool=first, mistake=Mistake.CODE_ERROR))
    if turn is not None:
        upright = task.orientation.inverse.apply(image)
        steps.append(PlannedStep(tool=turn, pixel_sha256=pixel_sha256(upright)))
    if Operation.CROP in task.required:
        count = int(rng.integers(2, 4)) if shape is Shape.MULTI_CROP else 1
        steps += [PlannedStep(tool=Operation.CROP)] * count
    return Plan(task=task, shape=shape, steps=tuple(steps))


class NotedModel:
    """`inner`, told in each request what the plan has next. The trajectory keeps the request without the note."""

    def __init__(self, inner: Model, plan: Plan, *, failed: str | None = None) -> None:
        self.inner, self.plan, self.failed = inner, plan, failed

    @property
    def name(self) -> str:
        """The model's own."""
        return self.inner.name

    async def complete(self, request: Request, *, on_text: Callable[[str], None] | None = None) -> Completion:
        """As the model completes the request with the note at its end."""
        said = sum(message.role == "assistant" for message in request.messages)
        last = request.messages[-1]
        noted = replace(last, content=(*last.content, TextPart(text=note(self.plan, said, self.failed))))
        return await self.inner.complete(replace(request, messages=(*request.messages[:-1], noted)), on_text=on_text)

    async def aclose(self) -> None:
        """The inner model belongs to whoever made it."""

    def describe(self) -> Mapping[str, Json]:
        """The model's own, as the teacher."""
        return {**self.inner.describe(), "role": "teacher"}


def note(plan: Plan, said: int, failed: str | None = None) -> str:
    """What the teacher is told before message number `said`."""
    lines = ["", "[Note to the author of a worked example. Never mention this note or that you were told anything.]"]
    if said >= len(plan.steps):
        lines.append(f"Now give the final answer. It is: {plan.task.answers[0]}. Say what in the picture shows it.")
    else:
        lines.append(_next(plan, said))
    if failed:
        lines.append(f"An earlier attempt was thrown away: {failed}.")
    return "\n".join(lines)


def _next(plan: Plan, said: int) -> str:
    step, task = plan.steps[said], plan.task
    before = sum(one.tool == Operation.CROP and one.mistake is None for one in plan.steps[:said])
    left = sum(one.tool == Operation.CROP for one in plan.steps[said:])
    if step.tool == Operation.CROP:
        box = None if task.canonical_target is None else [round(value) for value in task.canonical_target]
        what = (
            f"crop. In the upright picture, before any crop, what is asked for lies at {box} (left, top, right, bottom)"
        )
        if left > 1:
            what += "; take a generous window around it now, a later crop narrows it down"
        elif before:
            what += "; crop the last picture closely around it, in that picture's own pixels"
        else:
            what += "; crop closely around it, with a small margin"
    else:
        what = _TOOLS[step.tool]
    if step.mistake is not None:
        return (
            f"Say what you see, then make a call that is meant to {what}, but with a plausible slip that raises an "
            "exception (a method that does not exist, arguments in the wrong form). You will mend it in the next message."
        )
    return (
        f"Say in one or two sentences what you see and why, then make one call: {what}. Put the picture into `result`."
    )
