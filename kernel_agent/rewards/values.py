"""What a score is made of."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from kernel_agent.types import Json


class Rewards(StrEnum):
    """The named sets; docs/rewards.md has their formulas and ranges."""

    PAPER = "paper"
    REFERENCE = "reference"
    DEFAULT = "default"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether an answer is right, who says so ("rules" or "judge"), and why; `transcript` is all that a judge was asked and said."""

    correct: bool
    by: str = "rules"
    explanation: str = ""
    transcript: Json = None


@dataclass(frozen=True, kw_only=True)
class Component:
    """One term: it adds `value * weight` to the total. Penalties have a negative weight."""

    name: str
    value: float
    weight: float
    explanation: str = ""

    @property
    def contribution(self) -> float:
        """What it adds to the total."""
        return self.value * self.weight + 0.0  # never -0.0


@dataclass(frozen=True, kw_only=True)
class Score:
    """The terms of one run under one named set, and the verdict on its answer."""

    rewards: Rewards
    components: tuple[Component, ...]
    verdict: Verdict

    @property
    def total(self) -> float:
        """The sum of all contributions, in order."""
        return sum(component.contribution for component in self.components)

    def __getitem__(self, name: str) -> Component:
        """A component by name; KeyError where this set has none of that name."""
        for component in self.components:
            if component.name == name:
                return component
        raise KeyError(name)

    def to_json(self) -> dict[str, Json]:
        """Everything, as a JSON object."""
        verdict = self.verdict
        return {
            "rewards": str(self.rewards),
            "total": self.total,
            "correct": verdict.correct,
            "checked_by": verdict.by,
            "check": verdict.explanation,
            "judge": verdict.transcript,
            "components": [
                {
                    "name": one.name,
                    "value": one.value,
                    "weight": one.weight,
                    "contribution": one.contribution,
                    "explanation": one.explanation,
                }
                for one in self.components
            ],
        }


@dataclass(frozen=True, kw_only=True)
class GroupFacts:
    """What the rollouts of one question say together: how many used the tool in question, and how many of each were right."""

    with_tool: int
    right_with: int
    without_tool: int
    right_without: int

    @property
    def gain(self) -> float:
        """Accuracy with the tool less accuracy without it, at least 0; 0 where either group is empty."""
        if not self.with_tool or not self.without_tool:
            return 0.0
        return max(0.0, self.right_with / self.with_tool - self.right_without / self.without_tool)
