"""OpenAI tool calls: the server is given the tool's schema and parses the calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kernel_agent import prompts
from kernel_agent.protocols.base import Parsed, cut_short, find_answers, read_message
from kernel_agent.protocols.native import read_call
from kernel_agent.types import Action, Answer, Completion, Json, Malformed, Message, Names, Part, TextPart

_REMEDY = "Call code_image_tool once, or reply with the answer alone."


@dataclass(frozen=True)
class OpenAITools:
    """`code_image_tool` as an OpenAI function; a message without a call is the answer."""

    name: str = "openai"
    names: Names = Names()
    tools: tuple[Mapping[str, Json], ...] = (prompts.TOOL,)
    stop: tuple[str, ...] = ()

    def system(self) -> str:
        """The task; the schema travels apart."""
        return prompts.openai_system()

    def parse(self, completion: Completion, *, images: int) -> Parsed:
        """One tool call, or text that answers."""
        thought, _, rest = read_message(completion.text)
        action = self._action(completion, rest, images)
        return Parsed(thought=thought if isinstance(action, Answer) else (thought or rest.strip()), action=action)

    def _action(self, completion: Completion, rest: str, images: int) -> Action:
        calls = completion.tool_calls
        if len(calls) > 1:
            return Malformed(problem=f"the message holds {len(calls)} calls.", remedy=_REMEDY, call_id=calls[0].id)
        if calls:
            call = calls[0]
            if call.name != "code_image_tool":
                return Malformed(problem=f"there is no tool {call.name!r}.", remedy=_REMEDY, call_id=call.id)
            return cut_short(completion, _REMEDY) or read_call(call.arguments, images=images, call_id=call.id)
        cut = cut_short(completion, _REMEDY)
        if cut:
            return cut
        answers = find_answers(rest)
        text = answers[-1] if answers else rest.strip()
        if text:
            return Answer(text=text)
        return Malformed(problem="the message holds neither a call nor an answer.", remedy=_REMEDY)

    def reply(self, completion: Completion) -> Message:
        """Text and calls as the server reported them."""
        content = (TextPart(text=completion.text),) if completion.text else ()
        return Message(role="assistant", content=content, tool_calls=completion.tool_calls)

    def observe(self, completion: Completion, report: Sequence[Part]) -> tuple[Message, ...]:
        """A tool message for every call, as the API demands; a user message where there was none."""
        if not completion.tool_calls:
            return (Message(role="user", content=tuple(report)),)
        first, *others = completion.tool_calls
        ignored = (TextPart(text="Nothing was run for this call: one call a message."),)
        return (
            Message(role="tool", content=tuple(report), tool_call_id=first.id),
            *(Message(role="tool", content=ignored, tool_call_id=call.id) for call in others),
        )
