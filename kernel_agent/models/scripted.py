"""A model that says what it was told to say: for tests, tours and benchmarks, with everything else real."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from kernel_agent.errors import InputError
from kernel_agent.models.text import mend
from kernel_agent.types import Completion, Json, Request

Reply: TypeAlias = "str | Completion | Exception | Callable[[Request], str | Completion]"
"""Text, a whole completion, an exception to raise, or a function of the request that gives one of the first two."""


class ScriptedModel:
    """Gives its replies in order, one a request; the requests it got stand in `requests`.

    `delay` is in seconds a piece of text, of at most `piece` characters, when somebody listens (`on_text`). InputError when
    the replies run out.
    """

    def __init__(self, replies: Sequence[Reply], *, name: str = "scripted", delay: float = 0.0, piece: int = 40) -> None:
        self.name = name
        self.requests: list[Request] = []
        self._replies = list(replies)
        self._delay, self._piece = delay, piece

    async def complete(self, request: Request, *, on_text: Callable[[str], None] | None = None) -> Completion:
        """The next reply."""
        started = time.perf_counter()
        self.requests.append(request)
        if len(self.requests) > len(self._replies):
            raise InputError(
                f"The script has {len(self._replies)} replies and was asked {len(self.requests)} times: add replies, or "
                "end the script with an answer."
            )
        reply = self._replies[len(self.requests) - 1]
        if callable(reply):
            reply = reply(request)
        if isinstance(reply, Exception):
            raise reply
        completion = Completion(text=reply) if isinstance(reply, str) else reply
        text, raw = mend(completion.text)
        if on_text is not None:
            for start in range(0, len(text), self._piece):
                on_text(text[start : start + self._piece])
                await asyncio.sleep(self._delay)
        return replace(
            completion,
            text=text,
            raw_json=completion.raw_json or raw,
            model=completion.model or self.name,
            seconds=completion.seconds or time.perf_counter() - started,
        )

    async def aclose(self) -> None:
        """Nothing to release."""

    def describe(self) -> Mapping[str, Json]:
        """Kind and name; the script is not told."""
        return {"kind": "scripted", "model": self.name}
