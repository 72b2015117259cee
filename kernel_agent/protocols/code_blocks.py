"""Code written into the message: `<code>` tags (PyVision, DeepEyesV2, Thyme) and plain Markdown fences.

Models trained on the tags run with the names of images they were trained on; see `Names`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kernel_agent import prompts
from kernel_agent.protocols.base import (
    Parsed,
    boxed,
    cut_short,
    find_answers,
    join_thought,
    read_message,
    text_reply,
    wrapped,
)
from kernel_agent.types import Action, Answer, Completion, Json, Malformed, Message, Names, Part, RunCode

_TAG = r"<code>(.*?)(?:</code>|\Z)"
_FENCE = r"^[ \t]*```[ \t]*(?:python|py|Python)?[ \t]*\n(.*?)(?:^[ \t]*```[ \t]*$|\Z)"


def _action(blocks: Sequence[str], answers: Sequence[str], remedy: str) -> Action:
    codes = [block for block in blocks if block.strip()]
    if len(codes) > 1:
        return Malformed(problem=f"the message holds {len(codes)} blocks of code.", remedy="Write one block a message.")
    if codes and answers:
        return Malformed(problem="the message holds code and an answer.", remedy="Write only one of the two.")
    if codes:
        return RunCode(code=codes[0])
    if answers and answers[-1]:
        return Answer(text=boxed(answers[-1]))
    return Malformed(problem="the message holds neither code nor an answer.", remedy=remedy)


def _unfenced(block: str) -> str:
    fenced = re.search(_FENCE, block, re.DOTALL | re.MULTILINE)
    return fenced[1] if fenced else block


@dataclass(frozen=True)
class CodeTags:
    """Code in `<code>` tags, with or without a fence inside; results come back inside `<tag>`."""

    name: str
    names: Names
    tag: str
    tools: tuple[Mapping[str, Json], ...] = ()
    stop: tuple[str, ...] = ("</code>",)

    def system(self) -> str:
        """The task, the tags and the names of images."""
        first = self.names(0)
        return prompts.code_system(
            first=f"{first}.png" if self.names.saved_files else first, tag=self.tag, files=self.names.saved_files
        )

    def parse(self, completion: Completion, *, images: int) -> Parsed:
        """One `<code>` block or one answer outside the thought."""
        thought, tags, rest = read_message(completion.text, _TAG)
        blocks = [_unfenced(block) for block in tags]
        remedy = "Write <code> with Python in it </code>, or <answer>...</answer>."
        action = cut_short(completion, remedy) or _action(blocks, find_answers(rest), remedy)
        return Parsed(thought=join_thought(thought, rest), action=action)

    def reply(self, completion: Completion) -> Message:
        """As written, with the closing tag that the server cut off as a stop string."""
        text = completion.text
        return text_reply(text + "</code>" if text.count("<code>") > text.count("</code>") else text)

    def observe(self, completion: Completion, report: Sequence[Part]) -> tuple[Message, ...]:
        """Inside the style's own tag."""
        return wrapped(self.tag, report)


@dataclass(frozen=True)
class Fenced:
    """One Markdown block of Python a message: works with any chat model."""

    name: str = "fenced"
    names: Names = Names()
    tools: tuple[Mapping[str, Json], ...] = ()
    stop: tuple[str, ...] = ()

    def system(self) -> str:
        """The task and the fence."""
        return prompts.fenced_system()

    def parse(self, completion: Completion, *, images: int) -> Parsed:
        """One fenced block or one `<answer>` outside the thought."""
        thought, blocks, rest = read_message(completion.text, _FENCE)
        remedy = "Write one ```python block, or <answer>...</answer>."
        action = cut_short(completion, remedy) or _action(blocks, find_answers(rest), remedy)
        return Parsed(thought=join_thought(thought, rest), action=action)

    def reply(self, completion: Completion) -> Message:
        """As written."""
        return text_reply(completion.text)

    def observe(self, completion: Completion, report: Sequence[Part]) -> tuple[Message, ...]:
        """Plain, as a user message."""
        return (Message(role="user", content=tuple(report)),)
