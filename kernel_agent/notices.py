"""What a watcher of a run is told, while it goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from kernel_agent.types import Action, Step


@dataclass(frozen=True, kw_only=True)
class TextWritten:
    """The model wrote this much more."""

    step: int
    text: str


@dataclass(frozen=True, kw_only=True)
class ActionRead:
    """The model's message is complete. `runs`: code in it is about to run, unless a person refuses it."""

    step: int
    thought: str
    action: Action
    runs: bool = True


@dataclass(frozen=True, kw_only=True)
class CellStarted:
    """Code has begun to run: the model's, or (`edited`) what a person made of it."""

    step: int
    code: str
    edited: bool


@dataclass(frozen=True, kw_only=True)
class StepDone:
    """A step is over and saved. `left`: what is left of the turn's budget (steps, seconds, tokens, images)."""

    step: Step
    left: Mapping[str, float] = field(default_factory=dict)


Notice: TypeAlias = TextWritten | ActionRead | CellStarted | StepDone
Watch: TypeAlias = Callable[[Notice], None]
