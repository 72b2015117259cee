"""What the model saw and said, checked without any model: whether the record of it follows from itself.

The completion as written gives thought, action and code; the cell gives the report that went back; both give the next request;
the last action gives the answer and how the turn ended; pictures.py looks at the images. Guarantees: pure; whatever was changed in one of these places only
is found there, and no message is left over that none of them gives: every user message is a question of the run, nothing but code that ran,
a refusal or a message that could not be read is answered with an observation, and only the last step of a turn goes without; the
system message stands first, and the word that the next message is the last only before what can be the last. Not checked: what was changed in all of them alike
(the signature is for that), whether a model would write this again, and what another version of this package would have made of the
same completion (then the finding is "unchecked" and says so; code that ran, what it wrote and who was asked what need no such excuse).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from kernel_agent import prompts
from kernel_agent.audit.captions import check_captions
from kernel_agent.audit.finding import Finding
from kernel_agent.audit.pictures import check_pictures, finding
from kernel_agent.environment import environment
from kernel_agent.protocols import PROTOCOLS, Protocol
from kernel_agent.session.cells import cell_source
from kernel_agent.types import (
    Action,
    Answer,
    CellResult,
    ErrorOutput,
    Event,
    Json,
    KernelImage,
    Malformed,
    Message,
    Observation,
    Part,
    RunCode,
    Status,
    Step,
    StopReason,
    StreamOutput,
    TextOutput,
    TextPart,
)

if TYPE_CHECKING:
    from kernel_agent.trajectory import Trajectory, Turn

HIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f\ud800-\udfff]|\r(?!\n)"
)
"""What makes text look other than it is: control characters, a carriage return alone (a new line to Python, not to every viewer),
characters that turn the direction of writing, that have no width or cannot be encoded."""
_CUT_SHORT = (None, StopReason.CRASHED, StopReason.INTERRUPTED, StopReason.TIME_LIMIT, StopReason.KERNEL_ERROR)
"""How a turn ends in whose last step a cell was running: what it showed was told nobody."""


def check_record(trajectory: Trajectory, *, max_pixels: int) -> list[Finding]:
    """All contradictions in what the model saw and said."""
    return [
        *_steps(trajectory),
        *_ends(trajectory),
        *_hidden(trajectory),
        *check_captions(trajectory),
        *check_pictures(trajectory, max_pixels=max_pixels),
    ]


def _versions(header: Mapping[str, Json]) -> tuple[Json, str | None]:
    """Of the package: the run's, and ours."""
    then = header.get("environment")
    packages = then.get("packages") if isinstance(then, Mapping) else None
    return packages.get("kernel-agent") if isinstance(packages, Mapping) else None, environment()["packages"].get(
        "kernel-agent"
    )


def same_version(header: Mapping[str, Json]) -> bool:
    """Whether this version of the package made the run."""
    then, now = _versions(header)
    return then is not None and then == now


def _steps(trajectory: Trajectory) -> Iterator[Finding]:
    """Of each step: thought, action, code, report and request."""
    known = [image for image in trajectory.images if not _made(image, trajectory.steps)]
    name = trajectory.header.get("protocol")
    protocol = PROTOCOLS.get(name) if isinstance(name, str) else None
    then, now = _versions(trajectory.header)
    words = f" (kernel-agent {then!s:.40} recorded it, and {now} reads it: their words may differ)"
    doubt = None if same_version(trajectory.header) else words
    decided = _decisions(trajectory)
    ends = {end - 1: turn for turn, _, end in _spans(trajectory)}
    last = _last(trajectory)
    for step in trajectory.steps:
        yield from _fits(step, decided.get(step.index), ends.get(step.index))
    if protocol is None and trajectory.steps:
        message = f"no protocol {name!r:.80} here: messages were not read again"
        yield finding("run", "protocol", message, doubt="")
        return
    before: Step | None = None
    for step in trajectory.steps:
        assert protocol is not None
        where, decision = f"step {step.index + 1}", decided.get(step.index)
        protocol = _reader(protocol, step, len(known), decision)
        parsed = protocol.parse(step.completion, images=len(known))
        if _as_decided(parsed.action, decision) != step.action:
            yield finding(where, "action", "the completion as written gives another action", doubt)
        elif parsed.thought != step.thought:
            yield finding(where, "thought", "the completion as written gives another thought", doubt)
        if step.cell is not None and not _ran(step.action, step.cell):
            told = doubt if _ran(step.action, step.cell, words=False) else None
            yield finding(where, "code", "the cell that ran is not the code of the action", told)
        if (expected := _report(step, known, decision)) is not None and step.observation is not None:
            parts = step.observation.content
            if parts[: len(expected)] != expected or not _notices(parts[len(expected) :], step.index in last):
                told = doubt if step.cell is None or _tells(step.observation, step.cell) else None
                yield finding(where, "observation", "what the model was told is not what the cell showed", told)
        asked = [(turn, end - first < 2) for turn, first, end in _spans(trajectory) if first == step.index]
        if not _request_fits(step, before, asked, protocol, known):
            message = "the request does not follow from the step before and the question"
            told = doubt if len(step.new_messages) <= _due(before, protocol) + len(asked) else None
            yield finding(where, "request", message, told)
        known += step.images
        before = step


def _fits(step: Step, decision: Event | None, turn: Turn | None) -> Iterator[Finding]:
    """What step can be at all: `turn` is the one that it ends, `decision` what a person said of its code."""
    where, action, cell, told = f"step {step.index + 1}", step.action, step.cell, step.observation
    refused = decision is not None and decision.kind == "refused"
    if cell is not None and not isinstance(action, RunCode):
        yield finding(where, "code", "a cell ran, and the model did not ask for one")
    if refused and cell is not None:
        yield finding(where, "code", "a person refused this code, and it ran")
    if refused and not isinstance(action, RunCode):
        yield finding(where, "action", "a person refused code, and the model wrote none")
    answered = cell is not None or refused or isinstance(action, Malformed)
    if told is not None and not answered:
        yield finding(where, "observation", "nothing ran, and the model was told of it")
    if told is None and answered and (cell is None or turn is None or turn.stop_reason not in _CUT_SHORT):
        yield finding(where, "observation", "what came of this message was not told to the model, and the turn went on")
    if turn is None and (isinstance(action, Answer) or not answered):
        message = "the model answered" if isinstance(action, Answer) else "its code did not run"
        yield finding(where, "action", f"{message}, and the turn went on")
    status = cell.status if cell is not None else Status.REFUSED if refused else Status.MALFORMED
    if told is not None and answered and told.status is not status:
        yield finding(where, "observation", f"its status is {told.status}, and the step's is {status}")


def _ran(action: Action, cell: CellResult, *, words: bool = True) -> bool:
    """Whether a cell is the code of an action; without `words`, whatever is put before and after it."""
    if not isinstance(action, RunCode):
        return True  # told elsewhere
    if words:
        return cell_source(action.code, action.image_index) == cell.source
    return cell_source(action.code) in cell.source


def _tells(told: Observation, cell: CellResult) -> bool:
    """Whether an observation holds every text of a cell's outputs and shows its images, whatever words stand around them."""
    texts = [
        "\n".join(output.traceback) if isinstance(output, ErrorOutput) else output.text
        for output in cell.outputs
        if isinstance(output, (StreamOutput, TextOutput, ErrorOutput))
    ]
    return all(text.rstrip("\n") in told.text for text in texts)


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


_NOTICE = TextPart(text=prompts.LAST_MESSAGE)


def _notices(parts: Sequence[Part], last: bool) -> bool:
    """Whether this is nothing, or, before what can be a turn's last message, the word that it is."""
    return tuple(parts) in ((), (_NOTICE,) if last else ())


def _last(trajectory: Trajectory) -> set[int]:
    """The steps whose observation can say so: at most one more follows in the turn, and nothing said it before."""
    found, steps = set[int](), trajectory.steps
    for _, first, end in _spans(trajectory):
        for number in range(max(first, end - 2), end):
            told = steps[number - 1].observation
            before = told.content if number > first and told is not None else ()
            asked = steps[number].new_messages[-1:] if number == first else ()
            if _NOTICE not in (*before, *(part for message in asked for part in message.content)):
                found.add(number)
    return found


def _request_fits(
    step: Step,
    before: Step | None,
    turns: Sequence[tuple[Turn, bool]],
    protocol: Protocol,
    known: Sequence[KernelImage],
) -> bool:
    """Whether the new messages are the last completion, what came back for it, and the questions asked since.

    `turns` are those that begin with this step, and whether it is all that they have.
    """
    new = list(step.new_messages)
    if before is not None:
        expected = [protocol.reply(before.completion)]
        if before.observation is not None:
            expected += protocol.observe(before.completion, before.observation.content)
        if new[: len(expected)] != expected:
            return False
        new = new[len(expected) :]
    elif new[:1] != [Message(role="system", content=(TextPart(text=protocol.system()),))]:
        return False
    else:
        new = new[1:]
    shown = [image for image in known if image.origin == "input"] if before is None else []
    waiting = list(turns)
    for message in new:  # a question that no request carried comes along, or was forgotten with its kernel
        while waiting and not _asks(message, waiting[0][0].question, shown, last=waiting[0][1]):
            del waiting[0]
        if not waiting:
            return False
        del waiting[0]
        shown = []
    return not waiting


def _asks(message: Message, question: str, images: Sequence[KernelImage], *, last: bool) -> bool:
    """Whether this is a question as it is put, with these images."""
    parts = prompts.question(question, images)
    rest = message.content[len(parts) :]
    return message == Message(role="user", content=(*parts, *rest)) and _notices(rest, last)


def _due(before: Step | None, protocol: Protocol) -> int:
    """How many messages a request has before the questions in it."""
    if before is None:
        return 1
    told = before.observation
    return 1 + (0 if told is None else len(protocol.observe(before.completion, told.content)))


def _spans(trajectory: Trajectory) -> Iterator[tuple[Turn, int, int]]:
    """Each turn, its first step and the one after its last."""
    for number, turn in enumerate(trajectory.turns):
        later = trajectory.turns[number + 1 :]
        yield turn, turn.first_step, later[0].first_step if later else len(trajectory.steps)


def _ends(trajectory: Trajectory) -> Iterator[Finding]:
    """Whether the turns' answers and ends are those of their last messages."""
    for number, (turn, first, end) in enumerate(_spans(trajectory)):
        where = f"turn {number + 1}"
        action = trajectory.steps[end - 1].action if end > first else None
        answer = action.text if isinstance(action, Answer) else None
        if answer is not None and turn.stop_reason in (None, StopReason.CRASHED) and turn.answer is None:
            message = "the model's last message is an answer, and the run ended before that was noted"
            yield finding(where, "answer", message, doubt="")
        elif turn.stop_reason is None and turn.answer is None:
            message = "it has no end: the run goes on or was cut off, and steps of it may be in its journal alone"
            yield finding(where, "stop_reason", message, doubt="")
        elif turn.answer != answer:
            yield finding(where, "answer", "it is not the answer of the turn's last message")
        elif (answer is not None) is not (turn.stop_reason is StopReason.ANSWER):
            yield finding(where, "answer", f"the turn's last message does not end it by {turn.stop_reason!s:.40}")


def _hidden(trajectory: Trajectory) -> Iterator[Finding]:
    """Code that may look other than it is to people (Trojan source)."""
    for step in trajectory.steps:
        code = (
            step.cell.source if step.cell is not None else step.action.code if isinstance(step.action, RunCode) else ""
        )
        if found := sorted({f"U+{ord(match[0][0]):04X}" for match in HIDDEN.finditer(code)}):
            message = f"it holds characters that hide or turn text around: {', '.join(found[:8])}. Look at it character by character"
            yield finding(f"step {step.index + 1}", "code", message, doubt="")
