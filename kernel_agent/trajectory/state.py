"""What a trajectory consists of, and how much of it has been written somewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from kernel_agent.trajectory.records import Images, Turn
from kernel_agent.types import Event, Json, KernelImage, Step


@dataclass(kw_only=True)
class State:
    """The data of a `Trajectory`: it only grows, except that the last turn is closed."""

    run_id: str
    header: Mapping[str, Json]
    images: Images = field(default_factory=Images)
    turns: list[Turn] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    @property
    def inputs(self) -> list[KernelImage]:
        """The images the user gave (or any other that no step made), by index."""
        made = {image.index for step in self.steps for image in step.images}
        return [image for index, image in sorted(self.images.items()) if index not in made]

    @property
    def open_turn(self) -> Turn | None:
        """The turn that has not ended."""
        return self.turns[-1] if self.turns and self.turns[-1].stop_reason is None else None


@dataclass(frozen=True, kw_only=True)
class Mark:
    """How far something is written: counts of questions, steps, ends of turns, and events."""

    turns: int = 0
    steps: int = 0
    ends: int = 0
    events: int = 0

    @classmethod
    def of(cls, state: State) -> Mark:
        """Everything there is."""
        ends = len(state.turns) - (state.open_turn is not None)
        return cls(turns=len(state.turns), steps=len(state.steps), ends=ends, events=len(state.events))


def course(state: State, since: Mark) -> Iterator[tuple[str, int]]:
    """What came after `since`, in order: ("turn", i), ("step", k), ("end", i), then ("event", n).

    Takes time for what is new, not for the history: only the turns from the last marked one on are visited.
    """
    for number in range(max(min(since.turns, since.ends), 0), len(state.turns)):
        turn = state.turns[number]
        if number >= since.turns:
            yield "turn", number
        last = state.turns[number + 1].first_step if number + 1 < len(state.turns) else len(state.steps)
        for index in range(max(turn.first_step, since.steps), last):
            yield "step", index
        if turn.stop_reason is not None and number >= since.ends:
            yield "end", number
    for number in range(since.events, len(state.events)):
        yield "event", number
