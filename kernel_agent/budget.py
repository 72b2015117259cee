"""What a turn has spent of its `Budget`, and which limit it has met."""

from __future__ import annotations

import asyncio

from kernel_agent import prompts
from kernel_agent.types import Budget, CellResult, Completion, ImagePart, Json, Message, StopReason, TextPart


class Spending:
    """What a turn has used of its budget. A limit that leaves room for one more message asks for the answer first."""

    def __init__(self, budget: Budget, *, images: int = 0) -> None:
        self.budget = budget
        self.deadline = asyncio.get_running_loop().time() + budget.seconds
        self.images = images  # made by the run so far, earlier turns included
        self.steps = self.tokens = self.pixels = self.malformed = 0
        self.refused = False
        self.over: StopReason | None = None  # the model was told that its next message is the last

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

    def cell(self, cell: CellResult | None) -> None:
        """Count a cell's images."""
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
