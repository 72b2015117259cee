"""`Plan`: the metadata of a supervised run, written before anything is run (paper, section 4).

A plan says what must come of each step, not how it is said: `pixel_sha256` is that of the canonical picture. Where the
picture is not known beforehand (a model chooses its own crop) it is None, and the check goes by lineage.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from kernel_agent.tasks.ground_truth import GroundTruth, Operation
from kernel_agent.types import Json, Status


class Shape(StrEnum):
    """The five kinds of supervised run."""

    SINGLE = "single-tool"
    MULTI = "multi-tool"
    MULTI_CROP = "multi-crop"  # windows that shrink, each inside the one before
    RECOVERY = "error-recovery"  # a mistake on purpose, seen and mended
    NO_TOOL = "no-tool"


class Mistake(StrEnum):
    """What goes wrong on purpose in a run of RECOVERY."""

    WRONG_TURN = "wrong-turn"
    CODE_ERROR = "code-error"
    MISSED_CROP = "missed-crop"
    BAD_CALL = "bad-call"  # an image that does not exist


CONTRAST = "autocontrast"
"""The one tool of a plan that is not an `Operation`."""


@dataclass(frozen=True, kw_only=True)
class PlannedStep:
    """One message with a call and what must come of it.

    Attributes:
        tool: an `Operation`, or CONTRAST.
        message: what the teacher writes; "" where a model writes it.
        status: how the step must end; OK but for mistakes.
        pixel_sha256: of the one picture it must give; None where it gives none, or where any will do.
        mistake: what is wrong with it on purpose. A trainer may leave such a message out of the loss.
    """

    tool: str
    message: str = ""
    status: Status = Status.OK
    pixel_sha256: str | None = None
    mistake: Mistake | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A whole run: `final` is the last message, with the answer; "" where a model writes it."""

    task: GroundTruth
    shape: Shape
    steps: tuple[PlannedStep, ...]
    final: str = ""

    @property
    def messages(self) -> tuple[str, ...]:
        """Everything the teacher says."""
        return (*(step.message for step in self.steps), self.final)

    def to_json(self) -> dict[str, Json]:
        """The metadata that stays with the run."""
        task = self.task
        crop = Operation.CROP in task.required
        return {
            "type": str(self.shape),
            "task": task.id,
            "answer": list(task.answers),
            "bbox": list(task.target) if crop and task.target else None,
            "canonical_bbox": list(task.canonical_target) if crop and task.canonical_target else None,
            "required_tools": [str(operation) for operation in task.required],
            "tools": [step.tool for step in self.steps],
            "total_turns": len(self.steps) + 1,
            "mistakes": {str(k): str(step.mistake) for k, step in enumerate(self.steps) if step.mistake},
            "source": task.source,
        }
