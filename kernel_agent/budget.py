"""What a turn has spent of its `Budget`, and which limit it has met."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from kernel_agent import prompts
from kernel_agent.types import (
    Action,
    Budget,
    CellResult,
    Completion,
    ImagePart,
    Json,
    Malformed,
    Message,
    StopReason,
    TextPart,
)


class Spending:
    """What a turn has used of its budget. A limit that leaves room for one more message asks for the answer first."""

    def __init__(self, budget: Budget, *, images: int = 0) -> None:
        self.budget = budget
        self._clock = asyncio.get_running_loop().time
        self.deadline = self._clock() + budget.seconds
        self._limit: asyncio.Timeout | None = None
        self.images = images  # made by the run so far, earlier turns included
        self.steps = self.tokens = self.pixels = self.malformed = 0
        self.refused = False
        self.over: StopReason | None = None  # the model was told that its next message is the last

    @contextlib.asynccontextmanager
    async def within_time(self) -> AsyncIterator[None]:
        """TimeoutError for what is inside when the turn's time is over."""
        async with asyncio.timeout_at(self.deadline) as self._limit:
            yield

    @contextlib.asynccontextmanager
    async def stopped(self) -> AsyncIterator[None]:
        """The turn's time stands still inside: a person is waited for."""
        began = self._clock()
        if self._limit is not None:
            self._limit.reschedule(None)
        try:
            yield
        finally:
            self.deadline += self._clock() - began
            if self._limit is not None and not self._limit.expired():
                self._limit.reschedule(self.deadline)

    def left(self) -> dict[str, float]:
        """What is left: model calls, seconds, completion tokens, images; never below 0."""
        budget = self.budget
        left = {
            "steps": budget.steps - self.steps,
            "seconds": round(self.deadline - self._clock(), 3),
            "tokens": budget.tokens - self.tokens,
            "images": budget.images - self.images,
        }
        return {name: max(0, value) for name, value in left.items()}

    @property
    def tokens_left(self) -> int:
        """Completion tokens left; at least 1, for a last word."""
        return max(1, self.budget.tokens - self.tokens)

    def show(self, messages: tuple[Message, ...]) -> None:
        """Count the pixels of the views in these messages."""
        for message in messages:
            for part in message.content:
                if isinstance(part, ImagePart):
                    self.pixels += part.image.view_size[0] * part.image.view_size[1]

    def add(self, completion: Completion) -> None:
        """Count a model call."""
        self.steps += 1
        self.tokens += completion.usage.completion_tokens

    def done(self, action: Action, cell: CellResult | None) -> None:
        """Count what a step did: a message that cannot be read, a cell's images."""
        self.malformed = self.malformed + 1 if isinstance(action, Malformed) else 0
        if cell is not None:
            self.images += len(cell.images)
            self.refused = any(event.kind == "images_refused" for event in cell.events)

    def notice(self) -> tuple[TextPart, ...]:
        """The last-message notice where a limit is reached that one answer still fits in."""
        if self.steps >= self.budget.steps - 1:
            self.over = StopReason.STEP_LIMIT
        elif self.refused or self.images > self.budget.images:
            self.over = StopReason.IMAGE_LIMIT
        elif self.pixels >= self.budget.pixels:
            self.over = StopReason.PIXEL_LIMIT
        return (TextPart(text=prompts.LAST_MESSAGE),) if self.over else ()

    def hard_limit(self) -> StopReason | None:
        """A limit that ends the turn at once."""
        if self.malformed >= self.budget.malformed:
            return StopReason.MALFORMED
        if self.tokens >= self.budget.tokens:
            return StopReason.TOKEN_LIMIT
        return None

    def as_data(self) -> dict[str, Json]:
        """For the trajectory's event of a cut."""
        return {"steps": self.steps, "tokens": self.tokens, "pixels": self.pixels, "images": self.images}
