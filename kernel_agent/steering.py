"""How a person steers a run while it goes on: wait before a step, let code run, change it, refuse it.

`Conversation` asks a `Steering` at two points of each step. While it waits there, the turn's time stands still. What was
decided is recorded in the trajectory (`approved`, `code_edited`, `refused`), with who decided it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from kernel_agent.types import Completion, RunCode


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What was decided about code that is about to run.

    Attributes:
        code: what runs, the model's own or another; None: nothing runs.
        reason: of a refusal; the model is told.
        by: who decided.
    """

    code: str | None
    reason: str = ""
    by: str = ""


class Steering(Protocol):
    """Asked by a conversation; both may wait for a person as long as they like."""

    async def before_model(self, step: int) -> None:
        """The model is about to be asked for step `step`."""

    async def before_code(self, step: int, action: RunCode) -> Decision | None:
        """Code is about to run. None: nobody was asked, it runs as it is written."""


@dataclass(frozen=True, kw_only=True)
class Instead:
    """A step that a person changed: this completion is not asked for again, and `decision` is made about its code."""

    completion: Completion
    decision: Decision
