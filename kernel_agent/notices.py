"""What a watcher of a run is told, while it goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from kernel_agent.types import Action, Step


@dataclass(frozen=True, kw_only=True)
class TextWritten:
    """The model wrote this much more."""

    step: int
    text: str


@dataclass(frozen=True, kw_only=True)
class ActionRead:
    """The model's message is complete; code is about to run."""

    step: int
    thought: str
    action: Action


@dataclass(frozen=True, kw_only=True)
class StepDone:
    """A step is over and saved."""

    step: Step


Notice: TypeAlias = TextWritten | ActionRead | StepDone
Watch: TypeAlias = Callable[[Notice], None]
