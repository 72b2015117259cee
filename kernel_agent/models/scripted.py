"""A model that says what it is told to: for tests, tours and demonstrations without any weights."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from kernel_agent.errors import ModelFailed
from kernel_agent.types import Completion, Json, Request, TextPart, Usage

Reply: TypeAlias = str | Completion | Exception | Callable[[Request], str | Completion]


class ScriptedModel:
    """Replays `replies` in order, one a request.

    A string is a completion with that text; a Completion is given as it is; an exception is raised; a callable is asked
    with the request. Each request is kept in `requests`. When the script is used up, `complete` raises ModelFailed.
    With `delay`, text is streamed word by word with that many seconds between words. Usage counts words, roughly.
    """

    def __init__(self, replies: Sequence[Reply], *, name: str = "scripted", delay: float = 0.0) -> None:
        self.name = name
        self.requests: list[Request] = []
        self._replies = tuple(replies)
        self._delay = delay

    async def complete(self, request: Request, *, on_text: Callable[[str], None] | None = None) -> Completion:
        """The next reply of the script."""
        started = time.monotonic()
        number = len(self.requests)
        self.requests.append(request)
        if number >= len(self._replies):
            raise ModelFailed(
                f"The script of {self.name!r} has {len(self._replies)} replies and was asked a {number + 1}th time. Add a reply, "
                "or end the script with an answer."
            )
        reply = self._replies[number]
        if isinstance(reply, Exception):
            raise reply
        said = reply if isinstance(reply, str | Completion) else reply(request)
        completion = _completion(said, request, self.name) if isinstance(said, str) else said
        first = await self._stream(completion.text, on_text, started)
        return replace(completion, seconds=time.monotonic() - started, first_token_seconds=first)

    async def _stream(self, text: str, on_text: Callable[[str], None] | None, started: float) -> float:
        pieces = text.split(" ") if self._delay else [text]
        first = 0.0
        for index, piece in enumerate(pieces):
            await asyncio.sleep(self._delay)
            first = first or time.monotonic() - started
            if on_text:
                on_text(piece if index == 0 else f" {piece}")
        return first

    async def aclose(self) -> None:
        """Nothing to release."""

    def describe(self) -> Mapping[str, Json]:
        """Kind, name and how long the script is."""
        return {"kind": "scripted", "model": self.name, "replies": len(self._replies)}


def _completion(text: str, request: Request, name: str) -> Completion:
    prompt = sum(
        len(part.text.split()) for message in request.messages for part in message.content if isinstance(part, TextPart)
    )
    usage = Usage(prompt_tokens=prompt, completion_tokens=len(text.split()))
    return Completion(text=text, usage=usage, model=name)
