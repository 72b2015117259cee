"""What a protocol is: how a model says "run this", and how it is told what came of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol as Interface

from kernel_agent.types import Action, Completion, Json, Malformed, Message, Names, Part, TextPart


@dataclass(frozen=True, kw_only=True)
class Parsed:
    """A completion read: its thought (all that is not the action) and its one action."""

    thought: str
    action: Action


class Protocol(Interface):
    """A way for a model to act. Stateless: one instance serves any number of runs."""

    @property
    def name(self) -> str:
        """As written after `--protocol` and in the trajectory."""

    @property
    def names(self) -> Names:
        """Names of images in prompt, kernel and notebook."""

    @property
    def tools(self) -> tuple[Mapping[str, Json], ...]:
        """Tool schemas for the server; empty where the protocol is plain text."""

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings that end a message."""

    def system(self) -> str:
        """The system prompt."""

    def parse(self, completion: Completion, *, images: int) -> Parsed:
        """Read one action out of a completion; `images` is how many images there are. Never raises."""

    def reply(self, completion: Completion) -> Message:
        """The completion as it stands in the history."""

    def observe(self, completion: Completion, report: Sequence[Part]) -> tuple[Message, ...]:
        """What the model gets back."""


_OPEN = re.compile(r"<think(?:ing)?>")
_CLOSE = re.compile(r"</think(?:ing)?>")
_THOUGHT = r"<think(?:ing)?>(.*?)</think(?:ing)?>"


def read_message(text: str, action: str = r"(?!)") -> tuple[str, list[str], str]:
    """(thought, actions, rest) of a message read from left to right.

    `action` is a regular expression with one group. Whichever of thought and action begins first holds what stands in
    it: tags inside code are code, a call inside a thought is thought. A `</think>` that nothing opened closes one that
    the template opened in the prompt; a `<think>` that is never closed hides nothing.
    """
    thoughts: list[str] = []
    actions: list[str] = []
    whole = re.compile(rf"{_THOUGHT}|(?:{action})", re.DOTALL | re.MULTILINE)
    close, first = _CLOSE.search(text), whole.search(text)
    if close and (first is None or close.start() < first.start()):
        thoughts.append(text[: close.start()])
        text = text[close.end() :]

    def take(match: re.Match[str]) -> str:
        if match[1] is not None:
            thoughts.append(match[1])
        else:
            actions.append(match[match.lastindex or 0])
        return ""

    rest = _CLOSE.sub("", _OPEN.sub("", whole.sub(take, text)))
    return "\n".join(thought.strip() for thought in thoughts), actions, rest


_ANSWER = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.DOTALL)


def find_answers(text: str) -> list[str]:
    """The contents of `<answer>` tags; an unclosed last one runs to the end."""
    return [match.strip() for match in _ANSWER.findall(text)]


def boxed(text: str) -> str:
    r"""The content of `\boxed{...}` where there is one, else the text (PyVision answers that way)."""
    match = re.search(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}", text)
    return match[1].strip() if match else text


def join_thought(thought: str, rest: str) -> str:
    """The thought and what else was said, answers left out."""
    return "\n".join(filter(None, [thought, _ANSWER.sub("", rest).strip()]))


def cut_short(completion: Completion, remedy: str) -> Malformed | None:
    """A message that ran into its token cap is no action, whatever it holds so far."""
    if completion.finish_reason != "length":
        return None
    return Malformed(
        problem=f"the message was cut at {completion.usage.completion_tokens} tokens, the limit of one message.",
        remedy="Write less before you act. " + remedy,
    )


def text_reply(text: str) -> Message:
    """An assistant message of plain text."""
    return Message(role="assistant", content=(TextPart(text=text),))


def wrapped(tag: str, report: Sequence[Part]) -> tuple[Message, ...]:
    """A user message with the report inside `<tag>`, as Hermes-style templates render tool results."""
    content = (TextPart(text=f"<{tag}>\n"), *report, TextPart(text=f"</{tag}>"))
    return (Message(role="user", content=content),)
