"""The protocol CodeVision models are trained on: `<think>`, Hermes `<tool_call>` JSON, `<answer>` (paper section 3).

Unlike the released code, a call that cannot be read does not end the run in silence, and a second call in one message
is not dropped in silence: both come back with the remedy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kernel_agent import prompts
from kernel_agent.protocols.base import (
    Parsed,
    cut_short,
    find_answers,
    join_thought,
    read_message,
    text_reply,
    wrapped,
)
from kernel_agent.types import Action, Answer, Completion, Json, Malformed, Message, Names, Part, RunCode

_CALL = r"<tool_call>(.*?)(?:</tool_call>|\Z)"
_SHAPE = (
    'Write <tool_call>{"name": "code_image_tool", "arguments": {"code": "...", "description": "...", "image_index": 0}}'
    "</tool_call> with the code as one JSON string, or <answer>...</answer>."
)


def read_call(arguments: str, *, images: int, call_id: str | None = None) -> Action:
    """Read the JSON arguments of `code_image_tool`; what is wrong with them comes back as `Malformed`."""
    try:
        value = json.loads(arguments, strict=False)
    except ValueError as error:
        return Malformed(problem=f"the call's JSON cannot be read ({error}).", remedy=_SHAPE, call_id=call_id)
    return check_arguments(value, images=images, call_id=call_id)


def check_arguments(value: Json, *, images: int, call_id: str | None = None) -> Action:
    """Check the parsed arguments: types, an existing image, code that is not empty."""

    def wrong(problem: str, remedy: str = _SHAPE) -> Malformed:
        return Malformed(problem=problem, remedy=remedy, call_id=call_id)

    if not isinstance(value, dict):
        return wrong("the call's arguments are not a JSON object.")
    code, index = value.get("code"), value.get("image_index")
    if not isinstance(code, str) or not code.strip():
        return wrong("the call has no `code` string.")
    if isinstance(index, str) and index.strip().isdigit():
        index = int(index)
    if not isinstance(index, int) or isinstance(index, bool):
        return wrong(f"`image_index` is {json.dumps(index)}, not a whole number.")
    if not 0 <= index < images:
        return wrong(f"`image_index` {index} does not exist.", f"Available are 0 to {images - 1}.")
    description = value.get("description")
    return RunCode(
        code=code,
        description=description if isinstance(description, str) else "",
        image_index=index,
        call_id=call_id,
    )


@dataclass(frozen=True)
class Native:
    """`code_image_tool` in Hermes tags; the chosen image is bound to `image`, `img` and `draw`."""

    name: str = "native"
    names: Names = Names()
    tools: tuple[Mapping[str, Json], ...] = ()
    stop: tuple[str, ...] = ()

    def system(self) -> str:
        """Task, tool schema and tags."""
        return prompts.native_system()

    def parse(self, completion: Completion, *, images: int) -> Parsed:
        """One call or one answer outside the thought; anything else is malformed."""
        thought, calls, rest = read_message(completion.text, _CALL)
        action = cut_short(completion, _SHAPE) or self._action(calls, find_answers(rest), images)
        return Parsed(thought=join_thought(thought, rest), action=action)

    def _action(self, calls: Sequence[str], answers: Sequence[str], images: int) -> Action:
        if len(calls) > 1:
            return Malformed(problem=f"the message holds {len(calls)} calls.", remedy="Write one call a message.")
        if calls and answers:
            return Malformed(problem="the message holds a call and an answer.", remedy="Write only one of the two.")
        if calls:
            try:
                call = json.loads(calls[0], strict=False)
            except ValueError as error:
                return Malformed(problem=f"the call's JSON cannot be read ({error}).", remedy=_SHAPE)
            if not isinstance(call, dict) or call.get("name") != "code_image_tool":
                return Malformed(problem="the call does not name `code_image_tool`.", remedy=_SHAPE)
            arguments = call.get("arguments")
            if isinstance(arguments, str):
                return read_call(arguments, images=images)
            return check_arguments(arguments, images=images)
        if answers and answers[-1]:
            return Answer(text=answers[-1])
        return Malformed(problem="the message holds neither a call nor an answer.", remedy=_SHAPE)

    def reply(self, completion: Completion) -> Message:
        """As written."""
        return text_reply(completion.text)

    def observe(self, completion: Completion, report: Sequence[Part]) -> tuple[Message, ...]:
        """Inside `<tool_response>`, as a user turn."""
        return wrapped("tool_response", report)
