"""Runs a plan in a real kernel, and says what came out differently from the plan.

The agent's own loop runs it, so that what is learned from is what a model will meet: its prompts, its reports, its images.
"""

from __future__ import annotations

from pathlib import Path

from kernel_agent.agent import Agent
from kernel_agent.errors import LineageError
from kernel_agent.models import Model, ScriptedModel
from kernel_agent.rewards.answers import check_answer
from kernel_agent.session import KernelPool
from kernel_agent.tasks.ground_truth import GroundTruth, Operation
from kernel_agent.tasks.orientation import Orientation
from kernel_agent.teacher.plan import Plan, PlannedStep
from kernel_agent.trajectory import Trajectory, geometry
from kernel_agent.types import Affine, Answer, Box, Budget, KernelImage, Sampling, Status, Step, Task

COVERED = 0.9
"""Share of the target that a crop must hold."""
LARGEST = 0.5
"""Largest share of the picture that a model's first crop may keep; each later one must be smaller than the one before."""
LAST = 25.0
"""How many times as large as the target the last crop may be."""


async def run(
    plan: Plan, image: Path, pool: KernelPool, *, model: Model | None = None, save_to: Path | None = None
) -> Trajectory:
    """Run the plan on a kernel of `pool`: its messages, or what `model` says. Model and kernel failures are raised."""
    teacher = model or ScriptedModel(plan.messages, name="teacher")
    agent = Agent(
        teacher,
        budget=Budget(steps=len(plan.steps) + 2),  # one more than needed: nobody is told that a message is the last
        sampling=Sampling(temperature=0.0 if model is None else 0.7, max_tokens=2048, seed=None),
        kernel=pool.kernel,
        pool=pool,
    )
    task = Task(question=plan.task.question, images=(image,), id=plan.task.id)
    trajectory = await agent.arun(task, save_to=save_to, force=True)
    if trajectory.failure is not None:
        raise trajectory.failure
    return trajectory


def difference(plan: Plan, trajectory: Trajectory) -> str | None:
    """What in the run is not as planned; None where all of it is."""
    steps = trajectory.steps
    if len(steps) != len(plan.steps) + 1:
        return f"{len(steps)} messages, planned were {len(plan.steps) + 1}"
    before: Step | None = None
    for index, (planned, step) in enumerate(zip(plan.steps, steps, strict=False)):
        if isinstance(step.action, Answer):
            return f"step {index}: an answer where {planned.tool} was planned"
        wrong = _wrong(plan, planned, step, before, trajectory)
        if wrong:
            return f"step {index} ({planned.tool}): {wrong}"
        if planned.mistake is None and planned.tool == Operation.CROP:
            before = step
    if not check_answer(plan.task, trajectory.answer).correct:
        return f"the answer {trajectory.answer!r} is not {plan.task.answers[0]!r}"
    return None


def _wrong(plan: Plan, planned: PlannedStep, step: Step, before: Step | None, trajectory: Trajectory) -> str | None:
    status = Status.MALFORMED if step.observation is None else step.observation.status
    if planned.mistake is not None and not planned.message:
        return None if status in (Status.ERROR, Status.MALFORMED) else "nothing failed, though a mistake was planned"
    if status is not planned.status:
        return f"ended {status}, planned was {planned.status}"
    if status is not Status.OK:
        return None
    if len(step.images) != 1:
        return f"{len(step.images)} pictures, planned was one"
    if planned.pixel_sha256 is not None:
        right = step.images[0].pixel_sha256 == planned.pixel_sha256
        return None if right else "the picture is not the canonical one"
    return _crop_fault(plan.task, step.images[0], trajectory) or _not_smaller(plan, step, before, trajectory)


def _crop_fault(task: GroundTruth, image: KernelImage, trajectory: Trajectory) -> str | None:
    """What is wrong with a crop as a picture of the target: not upright, or the target is not in it."""
    assert task.target is not None
    try:
        affine = geometry.to_root({one.index: one for one in trajectory.images}, image.index)
    except LineageError as error:
        return str(error)
    if not _upright(affine, task.orientation):
        return "the crop is not upright"
    box = trajectory.to_input((0, 0, *image.size), image=image.index)
    covered = _area(_common(box, task.target)) / _area(task.target)
    return None if covered >= COVERED else f"the crop holds {covered:.0%} of the target"


def _not_smaller(plan: Plan, step: Step, before: Step | None, trajectory: Trajectory) -> str | None:
    task, area = plan.task, _kept(step, trajectory)
    assert task.target is not None
    whole = trajectory.images[0].size
    limit = LARGEST * whole[0] * whole[1] if before is None else 0.8 * _kept(before, trajectory)
    if area > limit:
        return f"the crop keeps {area:.0f} px of the picture, at most {limit:.0f} were planned"
    crops = [k for k, one in enumerate(plan.steps) if one.tool == Operation.CROP]
    if step.index == crops[-1] and area > LAST * _area(task.target) + 4096:
        return f"the last crop is {area / _area(task.target):.0f} times as large as the target"
    return None


def _kept(step: Step, trajectory: Trajectory) -> float:
    image = step.images[0]
    return _area(trajectory.to_input((0, 0, *image.size), image=image.index))


def _common(one: Box, other: Box) -> Box:
    return max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])


def _area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


_AXES = {
    Orientation.UPRIGHT: ((1, 0), (0, 1)),
    Orientation.ROT90: ((0, -1), (1, 0)),
    Orientation.ROT180: ((-1, 0), (0, -1)),
    Orientation.ROT270: ((0, 1), (-1, 0)),
    Orientation.FLIP_H: ((-1, 0), (0, 1)),
    Orientation.FLIP_V: ((1, 0), (0, -1)),
}
"""Where the upright picture's x and y point to in one that lies so."""


def _upright(affine: Affine, orientation: Orientation) -> bool:
    """Whether a picture with this map to the input shows the scene upright (sizes apart)."""
    a, b, _, d, e, _ = affine
    return all(
        abs(got[0] / _length(got) - want[0]) < 0.02 and abs(got[1] / _length(got) - want[1]) < 0.02
        for got, want in zip(((a, d), (b, e)), _AXES[orientation], strict=True)
    )


def _length(vector: tuple[float, float]) -> float:
    return float((vector[0] ** 2 + vector[1] ** 2) ** 0.5) or 1.0
