"""Our reward: the paper's aims without its hacks. docs/rewards.md has formulas, ranges and the hack that each term prevents.

Everything is read from what happened: pixels for operations, statuses for failures. A picture of which the pixels cannot tell
earns nothing. Ranges: answer 0..1, format 0..0.1, orientation and crop together 0..0.5, necessity 0..0.1, penalties 0..-0.7 together:
no wrong answer can reach a right one that was found without waste.
"""

from __future__ import annotations

from collections.abc import Iterator

from kernel_agent.operations import ORIENTATIONS, Applied, PictureOperations
from kernel_agent.rewards.facts import Facts, iou
from kernel_agent.rewards.values import Component, GroupFacts
from kernel_agent.tasks.ground_truth import Operation
from kernel_agent.types import Status, Step, StopReason

STRATEGY, OUT_OF_ORDER = 0.5, 0.5


def components(facts: Facts, group: GroupFacts | None) -> tuple[Component, ...]:
    """Our terms."""
    return (
        Component(name="answer", value=float(facts.verdict.correct), weight=1.0, explanation=facts.verdict.explanation),
        _format(facts),
        *_strategy(facts),
        _necessity(facts, group),
        _needless(facts),
        _turns(facts),
        _failures(facts),
        _idle(facts),
    )


def _format(facts: Facts) -> Component:
    ended = facts.trajectory.stop_reason is StopReason.ANSWER
    good = ended and not facts.malformed
    why = (
        f"{facts.malformed} messages could not be read"
        if facts.malformed
        else ""
        if ended
        else "it ended without an answer"
    )
    return Component(name="format", value=float(good), weight=0.1, explanation=why or "every message could be read")


def _strategy(facts: Facts) -> Iterator[Component]:
    required = facts.task.required
    if not required:
        return
    weight = STRATEGY / len(required)
    upright = next((step for step, picture in facts.pictures if facts.lies(picture, facts.orientation)), None)
    if facts.orientation is not None:
        tries = 0
        if upright is not None:
            tries = sum(_turns_picture(picture) for step, picture in facts.pictures if step <= upright)
        value = 1 / max(1, tries) if upright is not None else 0.0
        why = f"{facts.orientation}: right after {tries} turned pictures" if value else f"{facts.orientation}: never so"
        yield Component(name="orientation", value=value, weight=weight, explanation=why)
    if Operation.CROP in required:
        yield _crop(facts, weight)


def _turns_picture(picture: PictureOperations) -> bool:
    return any(one in ORIENTATIONS for one in picture.applied)


def _crop(facts: Facts, weight: float) -> Component:
    """The last crop counts, for it is what the answer was read from: trying many boxes earns nothing."""
    crops = [picture for _, picture in facts.pictures if Applied.CROP in picture.applied and facts.part(picture)]
    if facts.target is None or not crops:
        why = "the task has no target box" if facts.target is None else "no crop of the input was shown"
        return Component(name="crop", value=0.0, weight=weight, explanation=why)
    overlap = facts.iou(crops[-1])
    ordered = facts.lies(crops[-1], facts.orientation)
    why = f"IoU {overlap:.3f} of the last crop, in the input's frame" + ("" if ordered else "; not upright: half")
    return Component(name="crop", value=overlap * (1.0 if ordered else OUT_OF_ORDER), weight=weight, explanation=why)


def _necessity(facts: Facts, group: GroupFacts | None) -> Component:
    earned = group is not None and group.right_without <= 1 and facts.verdict.correct and used_tool(facts)
    value = group.gain if group is not None and earned and not facts.task.required else 0.0
    why = "gain of the rollouts that used a tool, where none is required" if group else "needs the group"
    return Component(name="necessity", value=value, weight=0.1, explanation=why)


def used_tool(facts: Facts) -> bool:
    """Whether a call showed a picture that pixels know to be changed."""
    return any(step.applied for step in facts.operations)


def _needless(facts: Facts) -> Component:
    count = sum(_turns_picture(picture) for step in facts.operations for picture in step.pictures)
    value = min(1.0, count / 2) if facts.orientation is None else 0.0
    why = f"{count} pictures turned though the input is upright" if value else ""
    return Component(name="needless_orientation", value=value, weight=-0.2, explanation=why)


def _turns(facts: Facts) -> Component:
    made = len(facts.calls) + facts.malformed
    free = max(2, len(facts.task.required) + 1)
    return Component(
        name="turns",
        value=min(1.0, max(0, made - free) / 4),
        weight=-0.2,
        explanation=f"{made} calls, {free} are free",
    )


def _failures(facts: Facts) -> Component:
    count = facts.failed + facts.malformed
    why = f"{facts.failed} calls failed, {facts.malformed} could not be read" if count else ""
    return Component(name="failures", value=min(1.0, count / 4), weight=-0.2, explanation=why)


def _idle(facts: Facts) -> Component:
    """Calls that brought nothing: no output at all, a picture as it was, or a part of the input that was shown already."""
    by_step = {step.step: step.pictures for step in facts.operations}
    seen: list[PictureOperations] = []
    count = 0
    for step in facts.calls:
        shown = by_step.get(step.index, ())
        new = [one for one in shown if not _seen(one, seen)]
        seen += shown
        count += _said_nothing(step) if not shown else not new
    why = f"{count} calls showed nothing new" if count else ""
    return Component(name="idle", value=min(1.0, count / 3), weight=-0.1, explanation=why)


def _said_nothing(step: Step) -> bool:
    return step.cell is not None and step.cell.status is Status.OK and not step.cell.outputs


def _seen(one: PictureOperations, seen: list[PictureOperations]) -> bool:
    if one.known and not one.applied:
        return True
    if one.box is None:
        return False
    return any(
        other.box is not None
        and other.root == one.root
        and other.lies == one.lies
        and other.applied == one.applied
        and iou(one.box, other.box) > 0.9
        for other in seen
    )
