"""The reward of the released code, to the last decimal and with its faults (digest sections 6.2, 6.3, 6.4). For comparisons only.

Operations are read from code and description (`code_reading`), failed calls included; crop boxes are raw numbers, compared with the
target in whatever frame each is in. Differences that remain: a message that cannot be read ended their rollout and
goes on in ours, and their judge's prompts are worded differently here.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

from kernel_agent.rewards.code_reading import read_call
from kernel_agent.rewards.facts import Facts, iou, written
from kernel_agent.rewards.judge import Judge
from kernel_agent.rewards.tags import released_answer, well_formed
from kernel_agent.rewards.values import Component, GroupFacts, Verdict
from kernel_agent.tasks.ground_truth import GroundTruth, Operation
from kernel_agent.trajectory import Trajectory
from kernel_agent.types import RunCode

NAMES = {
    Operation.ROTATE90: "rotate_90",
    Operation.ROTATE180: "rotate_180",
    Operation.ROTATE270: "rotate_270",
    Operation.FLIP_HORIZONTAL: "flip_horizontal",
    Operation.FLIP_VERTICAL: "flip_vertical",
    Operation.CROP: "crop",
}
_ORIENTATIONS = set(NAMES.values()) - {"crop"}
_CORE = set(NAMES.values())


def check(task: GroundTruth, trajectory: Trajectory, judge: Judge | None) -> Verdict:
    """0 or 1 by their rules, then by the judge. Several truths are never compared by rule: they all go to the judge."""
    answer = released_answer(written(trajectory))
    if answer is None:
        return Verdict(correct=False, explanation="no answer can be read")
    if len(task.answers) == 1 and released_equal(answer, task.answers[0]):
        return Verdict(correct=True, explanation=f"{answer!r:.80} equals the truth")
    if judge is None:
        return Verdict(
            correct=False, explanation=f"{answer!r:.80} does not equal the truth by rule; no judge was given"
        )
    return judge.released(task, answer, source=str(task.extra.get("data_source") or task.source))


def released_equal(said: str, truth: str) -> bool:
    """Their rules: equal as numbers, or else as text; the last option letter; the last number in the answer."""
    try:
        if float(said) == float(truth):
            return True
    except ValueError:
        if said == truth:
            return True
    if not said:
        return False
    if truth.upper() in ("A", "B", "C", "D"):
        found = re.findall(r"\b([A-D])\b", said.upper())
        read = found[-1] if found else None
    else:
        try:
            read = str(float(said))
        except ValueError:
            numbers = re.findall(r"[-+]?\d*\.?\d+", said.upper())
            read = numbers[-1] if numbers else None
    if read is None:
        return False
    if read.upper() == truth.strip().upper():
        return True
    try:
        return abs(float(Fraction(read)) - float(Fraction(truth.strip()))) <= 1e-4
    except (ValueError, ZeroDivisionError, OverflowError):
        return False


def expected(task: GroundTruth) -> set[str]:
    """Their expected set: from `extra["transform"]` where the data set gave it (what was done, so turned back), else `required`."""
    given: Any = task.extra.get("transform")
    if given is None:
        return {NAMES[one] for one in task.required}
    names = {given} if isinstance(given, str) else {str(one) for one in given}
    out: set[str] = set()
    for name in names:
        if not name.startswith("rotate_"):
            out.add(name)
        elif (degrees := name.split("_")[1]).lstrip("+-").isdigit() and (360 - int(degrees) % 360) % 360 in (
            90,
            180,
            270,
        ):
            out.add(f"rotate_{(360 - int(degrees) % 360) % 360}")
    return out


def components(facts: Facts, group: GroupFacts | None) -> tuple[Component, ...]:
    """Their terms, with the weights of the released script."""
    wanted = expected(facts.task)
    used: set[str] = set()
    boxes: list[list[float]] = []
    for step in facts.calls:
        if isinstance(step.action, RunCode):
            names, found = read_call(step.action.code, step.action.description)
            used.update(names)
            boxes += found
    target: Any = facts.task.extra.get("bbox") or facts.task.extra.get("bbox_2d") or facts.task.target
    best = max((iou(target, box) for box in boxes), default=0.0) if target is not None else 0.0
    mandatory = len((wanted - {"crop"}) & used) / len(wanted) if wanted else 0.0
    if "crop" in wanted and "crop" in used and target is not None:
        mandatory += best / len(wanted)
    mandatory = min(mandatory, 1.0)
    right = facts.verdict.correct
    accuracy = 1.0 if right else 0.0
    necessity = 0.0
    if group is not None and group.right_without < 2 and right and (facts.calls or used):
        necessity = group.gain
    if "crop" in wanted and mandatory < 0.1:
        accuracy, necessity = accuracy * mandatory, 0.0
    free = max(2, len(wanted))
    calls = len(facts.calls)
    spurious = used & _ORIENTATIONS if not wanted & _ORIENTATIONS else set()
    exact = bool(wanted & _CORE) and wanted & _CORE == used & _CORE
    extra = used - _CORE
    formed, why = well_formed(written(facts.trajectory))
    return (
        Component(name="accuracy", value=accuracy, weight=1.0, explanation=facts.verdict.explanation),
        Component(name="format", value=float(formed), weight=0.1, explanation=why),
        Component(
            name="mandatory",
            value=mandatory,
            weight=1.0,
            explanation=f"read from the code: {_list(used)}; expected: {_list(wanted)}; best raw IoU {best:.3f}",
        ),
        Component(name="necessity", value=necessity, weight=0.0, explanation="switched off in the released script"),
        Component(name="exact", value=0.1 if exact else 0.0, weight=1.0, explanation="the core operations, as a set"),
        Component(
            name="emergent",
            value=0.2 if right and extra else 0.0,
            weight=1.0,
            explanation=f"operations beyond the core: {_list(extra)}",
        ),
        Component(
            name="usage",
            value=float(max(0, calls - free)),
            weight=-0.5,
            explanation=f"{calls} calls, {free} are free",
        ),
        Component(
            name="spurious",
            value=float(len(spurious)),
            weight=-0.5,
            explanation=f"orientations read though none is expected: {_list(spurious)}",
        ),
    )


def used_tool(facts: Facts) -> bool:
    """Whether any call was made."""
    return bool(facts.calls)


def _list(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"
