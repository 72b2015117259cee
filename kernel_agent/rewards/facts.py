"""What every set of rewards asks of a run: its calls, its failures, where it looked, what it wrote."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from kernel_agent.operations import PictureOperations, StepOperations, find_operations
from kernel_agent.operations.affine import parts
from kernel_agent.rewards.values import Verdict
from kernel_agent.tasks.ground_truth import CorruptionKind, GroundTruth, Operation
from kernel_agent.trajectory import Trajectory
from kernel_agent.types import Box, RunCode, Status, Step

FAILED = (Status.ERROR, Status.TIMEOUT, Status.KILLED)
LEVEL = math.radians(5)
"""A picture turned by less than this besides counts as lying so (the released code's tolerance)."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A run of a task. Operations are found when they are first asked for: the reference set never does."""

    task: GroundTruth
    trajectory: Trajectory
    verdict: Verdict

    @cached_property
    def operations(self) -> tuple[StepOperations, ...]:
        """By step."""
        return find_operations(self.trajectory)

    @cached_property
    def calls(self) -> tuple[Step, ...]:
        """The steps whose code was run."""
        return tuple(
            step for step in self.trajectory.steps if isinstance(step.action, RunCode) and step.cell is not None
        )

    @property
    def failed(self) -> int:
        """Calls that raised, ran out of time or killed the kernel."""
        return sum(step.cell is not None and step.cell.status in FAILED for step in self.calls)

    @property
    def malformed(self) -> int:
        """Messages that could not be read."""
        steps = self.trajectory.steps
        return sum(step.observation is not None and step.observation.status is Status.MALFORMED for step in steps)

    @property
    def orientation(self) -> Operation | None:
        """The orientation operation that the task requires."""
        return next((one for one in self.task.required if one is not Operation.CROP), None)

    @property
    def pictures(self) -> list[tuple[int, PictureOperations]]:
        """(step, picture), in order, of which the pixels tell what they show of the input."""
        return [
            (step.step, picture)
            for step in self.operations
            for picture in step.pictures
            if picture.known and picture.root == 0 and picture.to_root is not None
        ]

    def lies(self, picture: PictureOperations, operation: Operation | None) -> bool:
        """Whether a picture lies to the input as `operation` would turn it (None: as the input does)."""
        taken = parts(picture.to_root) if picture.to_root is not None else None
        if taken is None or str(taken.orientation) != str(operation):
            return False
        skewed = any(one.kind in (CorruptionKind.SKEW, CorruptionKind.PERSPECTIVE) for one in self.task.corruptions)
        return abs(taken.angle) <= (math.radians(45) if skewed else LEVEL)

    @cached_property
    def target(self) -> Box | None:
        """The task's target in pixels of the input as the run had it."""
        box, size = self.task.target, self.task.size
        had = self.trajectory.images[0].size if self.trajectory.images else None
        if box is None or size is None or had is None or tuple(size) == tuple(had):
            return box
        x, y = had[0] / size[0], had[1] / size[1]
        return (box[0] * x, box[1] * y, box[2] * x, box[3] * y)

    def part(self, picture: PictureOperations) -> bool:
        """Whether a picture shows less than all of the input."""
        if picture.box is None:
            return False
        width, height = self.trajectory.images[0].size
        left, top, right, bottom = picture.box
        return (right - left) * (bottom - top) < 0.98 * width * height

    def iou(self, picture: PictureOperations) -> float:
        """Overlap of what it shows with the target, in the frame of the input."""
        if self.target is None or picture.box is None:
            return 0.0
        return iou(picture.box, self.target)


def iou(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes; 0 for boxes without area."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(0.0, width) * max(0.0, height)
    areas = [max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1]) for box in (one, other)]
    union = sum(areas) - both
    return both / union if union > 0 else 0.0


def written(trajectory: Trajectory) -> str:
    """Everything the model wrote and was told, in the tags of the native protocol, as the released code decodes a rollout."""
    out = []
    for step in trajectory.steps:
        calls = [
            f"<tool_call>{json.dumps({'name': call.name, 'arguments': call.arguments}, ensure_ascii=False)}</tool_call>"
            for call in step.completion.tool_calls
        ]
        out += [step.completion.text, *calls]
        if step.observation is not None:
            out.append(f"<tool_response>\n{step.observation.text}\n</tool_response>")
    return "\n".join(out)
