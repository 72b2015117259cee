"""The control without tools: one question, one answer, no word of code. Whatever the model writes is its answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kernel_agent import prompts
from kernel_agent.benchmarks.answers import bare
from kernel_agent.protocols.base import Parsed, text_reply, wrapped
from kernel_agent.types import Answer, Completion, Json, Malformed, Message, Names, Part


@dataclass(frozen=True)
class Direct:
    """A protocol in which nothing can be run."""

    name: str = "direct"
    names: Names = Names()
    tools: tuple[Mapping[str, Json], ...] = ()
    stop: tuple[str, ...] = ()

    def system(self) -> str:
        """The task without the tool."""
        return prompts.direct_system()

    def parse(self, completion: Completion, *, images: int) -> Parsed:
        """The answer in its tags, or all of the text."""
        text = bare(completion.text)
        if not text:
            return Parsed(thought="", action=Malformed(problem="the message is empty.", remedy="Write the answer."))
        return Parsed(thought=completion.text, action=Answer(text=text))

    def reply(self, completion: Completion) -> Message:
        """As written."""
        return text_reply(completion.text)

    def observe(self, completion: Completion, report: Sequence[Part]) -> tuple[Message, ...]:
        """Only an empty message is observed."""
        return wrapped("note", report)
