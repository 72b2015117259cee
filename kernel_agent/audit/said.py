"""What the model saw and said, checked without any model: whether the record of it follows from itself.

The completion as written gives thought, action and code; the cell gives the report that went back; both give the next request;
the last action gives the answer; an image gives the view of it. Guarantees: pure; whatever was changed in one of these places only
is found there. Not checked: what was changed in all of them alike (the signature is for that), whether a model would write
this again, and what another version of this package would have made of the same completion (then the finding is "unchecked").
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from kernel_agent import prompts
from kernel_agent.audit.compare_images import view_problem
from kernel_agent.audit.finding import Finding, Outcome
from kernel_agent.errors import ImageError
from kernel_agent.protocols import PROTOCOLS, Protocol
from kernel_agent.session.cells import cell_source
from kernel_agent.session.images import load_image
from kernel_agent.types import (
    Action,
    Answer,
    Event,
    Json,
    KernelImage,
    Malformed,
    Message,
    Part,
    RunCode,
    Step,
    StopReason,
    TextPart,
)

if TYPE_CHECKING:
    from kernel_agent.trajectory import Trajectory, Turn


def check_record(trajectory: Trajectory, *, max_pixels: int) -> list[Finding]:
    """All contradictions in what the model saw and said."""
    outcome = Outcome.FAILS if same_version(trajectory.header) else Outcome.UNCHECKED
    found = list(_steps(trajectory, outcome))
    found += _answers(trajectory, outcome)
    for image in trajectory.images:
        if (message := _view(image, trajectory.header, max_pixels)) is not None:
            where = "input" if image.origin == "input" else image.origin
            found.append(_finding(Outcome.FAILS, where, f"view of {image.name}", message))
    return found


def _view(image: KernelImage, header: Mapping[str, Json], max_pixels: int) -> str | None:
    """What is wrong with a view. That of a lossy image was made of pixels that only re-execution has."""
    if image.view == image.data or not image.lossless:
        return None
    try:
        return view_problem(image, load_image(image.data, max_pixels=max_pixels).pil, header, max_pixels=max_pixels)
    except ImageError as error:
        return f"it cannot be compared: {error}"


def same_version(header: Mapping[str, Json]) -> bool:
    """Whether this version of the package made the run."""
    from kernel_agent.environment import environment

    then, now = header.get("environment"), environment()["packages"]
    packages = then.get("packages") if isinstance(then, Mapping) else None
    return isinstance(packages, Mapping) and packages.get("kernel-agent") == now.get("kernel-agent")


def _finding(outcome: Outcome, cell: str, field: str, message: str) -> Finding:
    return Finding(check="what the model saw and said", outcome=outcome, cell=cell, field=field, message=message)


def _steps(trajectory: Trajectory, outcome: Outcome) -> Iterator[Finding]:
    """Of each step: thought, action, code, report and request."""
    known = [image for image in trajectory.images if not _made(image, trajectory.steps)]
    turns = {turn.first_step: turn for turn in reversed(trajectory.turns)}
    name = trajectory.header.get("protocol")
    protocol = PROTOCOLS.get(name) if isinstance(name, str) else None
    if protocol is None and trajectory.steps:
        yield _finding(
            Outcome.UNCHECKED, "run", "protocol", f"no protocol {name!r:.80} here: messages were not read again"
        )
        return
    decided = _decisions(trajectory)
    before: Step | None = None
    for step in trajectory.steps:
        assert protocol is not None
        where, decision = f"step {step.index + 1}", decided.get(step.index)
        protocol = _reader(protocol, step, len(known), decision)
        parsed = protocol.parse(step.completion, images=len(known))
        if _as_decided(parsed.action, decision) != step.action:
            message = "the completion as written gives another action"
            yield _finding(outcome, where, "action", message)
        elif parsed.thought != step.thought:
            yield _finding(outcome, where, "thought", "the completion as written gives another thought")
        if step.cell is not None:
            action = step.action
            if not isinstance(action, RunCode) or cell_source(action.code, action.image_index) != step.cell.source:
                yield _finding(outcome, where, "code", "the cell that ran is not the code of the action")
        if (expected := _report(step, known, decision)) is not None and step.observation is not None:
            told = step.observation.content
            if told[: len(expected)] != expected or not _notices(told[len(expected) :]):
                yield _finding(outcome, where, "observation", "what the model was told is not what the cell showed")
        if not _request_fits(step, before, turns.get(step.index), protocol, known):
            yield _finding(
                outcome, where, "request", "the request does not follow from the step before and the question"
            )
        known += step.images
        before = step


def _made(image: KernelImage, steps: Sequence[Step]) -> bool:
    return any(image.index == other.index for step in steps for other in step.images)


def _decisions(trajectory: Trajectory) -> dict[int, Event]:
    """What a person decided about the code of a step, where it was not run as written."""
    kinds = ("code_edited", "refused")
    return {
        step: event
        for event in trajectory.events
        if event.kind in kinds and (step := event.data.get("step")) is not None
    }


def _as_decided(action: Action, decision: Event | None) -> Action:
    """The action that a person left of the model's."""
    if decision is None or decision.kind != "code_edited" or not isinstance(action, RunCode):
        return action
    return replace(action, code=str(decision.data["ran"])) if action.code == decision.data["written"] else action


def _reader(usual: Protocol, step: Step, images: int, decision: Event | None) -> Protocol:
    """The protocol that reads the recorded action from this completion: a later turn may have used another than the first."""
    for protocol in (usual, *PROTOCOLS.values()):
        if _as_decided(protocol.parse(step.completion, images=images).action, decision) == step.action:
            return protocol
    return usual


def _report(step: Step, known: Sequence[KernelImage], decision: Event | None) -> tuple[Part, ...] | None:
    """What goes back for a step; None where nothing does."""
    if decision is not None and decision.kind == "refused":
        return prompts.refused_report(str(decision.data.get("reason", "")))
    if step.cell is not None:
        edited = decision is not None and isinstance(step.action, RunCode)
        code = step.action.code if isinstance(step.action, RunCode) else ""
        return (*prompts.edited_report(code, edited), *prompts.cell_report(step.cell, known))
    return prompts.malformed_report(step.action) if isinstance(step.action, Malformed) else None


def _notices(parts: Sequence[Part]) -> bool:
    return all(part == TextPart(text=prompts.LAST_MESSAGE) for part in parts)


def _request_fits(
    step: Step, before: Step | None, turn: Turn | None, protocol: Protocol, known: Sequence[KernelImage]
) -> bool:
    """Whether the new messages are the last completion, what came back for it, and the question where one was asked."""
    new = list(step.new_messages)
    if before is not None:
        expected = [protocol.reply(before.completion)]
        if before.observation is not None:
            expected += protocol.observe(before.completion, before.observation.content)
        if new[: len(expected)] != expected:
            return False
        new = new[len(expected) :]
    elif new[:1] and new[0].role == "system":
        if new[0] != Message(role="system", content=(TextPart(text=protocol.system()),)):
            return False
        new = new[1:]
    if turn is None:
        return not new
    if not new or any(message.role != "user" for message in new):  # questions that no request carried come along
        return False
    inputs = [image for image in known if image.origin == "input"]
    content = new[-1].content
    asked = (prompts.question(turn.question, ()), prompts.question(turn.question, inputs))
    return any(content[: len(parts)] == parts and _notices(content[len(parts) :]) for parts in asked)


def _answers(trajectory: Trajectory, outcome: Outcome) -> Iterator[Finding]:
    for number, turn in enumerate(trajectory.turns):
        later = trajectory.turns[number + 1 :]
        end = later[0].first_step if later else len(trajectory.steps)
        steps = trajectory.steps[turn.first_step : end]
        action = steps[-1].action if steps else None
        given = action.text if isinstance(action, Answer) and turn.stop_reason is StopReason.ANSWER else None
        if turn.answer != given:
            yield _finding(outcome, f"turn {number + 1}", "answer", "it is not the answer of the turn's last message")
