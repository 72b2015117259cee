"""A model that says each word when the test lets it: what is to happen meanwhile happens, however slow the machine is."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Mapping

from kernel_agent.models import ScriptedModel
from kernel_agent.types import Completion, Json, Request


class Dictated:
    """Replays `replies` in order, one a request, as ScriptedModel does; `let` sets so many words free, from any thread."""

    name = "dictated"

    def __init__(self, *replies: str) -> None:
        self._script, self._words = ScriptedModel(replies, name=self.name), threading.Semaphore(0)

    def let(self, words: int = 10_000) -> None:
        """Let it say so many words more; by default all."""
        self._words.release(words)

    async def complete(self, request: Request, *, on_text: Callable[[str], None] | None = None) -> Completion:
        """The next reply of the script."""
        completion = await self._script.complete(request)
        for word in re.findall(r"\S+\s*", completion.text):
            while not self._words.acquire(blocking=False):  # noqa: ASYNC110 - a thread sets it free
                await asyncio.sleep(0.01)
            if on_text:
                on_text(word)
        return completion

    async def aclose(self) -> None:
        """Nothing to release."""

    def describe(self) -> Mapping[str, Json]:
        """As the script's."""
        return self._script.describe()
