"""The reward as published (digest section 6.1), on operations that really happened and with boxes in the input's frame.

R = r_acc + 0.1 r_fmt + must-use + exact bonus + 0.2 (necessity + optional bonus) - 0.5 (turn limit + poor reasoning + inappropriate).
The size of the exact bonus is not published: 0.1, as in the released code.
"""

from __future__ import annotations

from kernel_agent.operations import ORIENTATIONS, Applied
from kernel_agent.rewards.facts import Facts, written
from kernel_agent.rewards.tags import well_formed
from kernel_agent.rewards.values import Component, GroupFacts
from kernel_agent.tasks.ground_truth import Operation


def components(facts: Facts, group: GroupFacts | None) -> tuple[Component, ...]:
    """The published terms."""
    required = facts.task.required
    sequence = [one for step in facts.operations for one in step.applied]
    core = [str(one) for one in sequence if one in ORIENTATIONS or one is Applied.CROP]
    overlaps = [facts.iou(picture) for _, picture in facts.pictures if facts.part(picture)]
    best = max(overlaps, default=0.0)
    earned = [best if one is Operation.CROP else float(_turned(facts, one)) for one in required]
    must_use = sum(earned) / len(required) if required else 0.0
    unknown = any(step.unknown for step in facts.operations)
    exact = (
        bool(required)
        and core == [str(one) for one in required]
        and not (facts.failed or facts.malformed or unknown)
        and len(facts.calls) <= len(required)
        and min(earned) > 0
    )
    right = facts.verdict.correct
    optional = used_optional(facts)
    needed = group.gain if group is not None and group.right_without <= 1 and right and optional else 0.0
    limit = len(required) + 1
    turned = [one for one in core if one != str(Applied.CROP)]
    formed, why = well_formed(written(facts.trajectory))
    return (
        Component(name="accuracy", value=float(right), weight=1.0, explanation=facts.verdict.explanation),
        Component(name="format", value=float(formed), weight=0.1, explanation=why),
        Component(
            name="must_use",
            value=must_use,
            weight=1.0,
            explanation=", ".join(f"{one} {got:.3f}" for one, got in zip(required, earned, strict=True))
            or "none required",
        ),
        Component(
            name="exact", value=0.1 if exact else 0.0, weight=1.0, explanation=f"did: {', '.join(core) or 'nothing'}"
        ),
        Component(
            name="necessity",
            value=needed,
            weight=0.2,
            explanation="gain of the rollouts that used an optional tool" if group else "needs the group",
        ),
        Component(
            name="optional",
            value=float(right and optional),
            weight=0.2,
            explanation="an optional tool and a right answer" if right and optional else "",
        ),
        Component(
            name="turn_limit",
            value=float(len(facts.calls) > limit),
            weight=-0.5,
            explanation=f"{len(facts.calls)} tool turns, {limit} allowed",
        ),
        Component(
            name="poor_reasoning",
            value=float(right and Operation.CROP in required and best < 0.1),
            weight=-0.5,
            explanation=f"best crop IoU {best:.3f}",
        ),
        Component(
            name="inappropriate",
            value=float(not required and bool(turned)),
            weight=-0.5,
            explanation=f"turned without need: {', '.join(turned)}" if turned and not required else "",
        ),
    )


def used_optional(facts: Facts) -> bool:
    """Whether a tool was used that is suggested; where the task suggests none, one that is not required."""
    applied = {str(one) for step in facts.operations for one in step.applied}
    suggested = set(map(str, facts.task.suggested))
    return bool(applied & suggested if suggested else applied - set(map(str, facts.task.required)))


def _turned(facts: Facts, operation: Operation) -> bool:
    """Whether it was ever used: by itself in one step, or as what several steps came to."""
    applied = any(str(operation) in map(str, step.applied) for step in facts.operations)
    return applied or any(facts.lies(picture, operation) for _, picture in facts.pictures)
