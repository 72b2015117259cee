"""Whether the events that a step's caption names are such as this package writes: a caption shows their kinds as they are.

Guarantees: pure; any other kind is "unchecked", as a model class of somebody's own may write events too, and so may whoever wants
a caption to say something.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kernel_agent.audit.finding import Finding
from kernel_agent.audit.pictures import finding

if TYPE_CHECKING:
    from kernel_agent.trajectory import Trajectory

KINDS = frozenset(
    (
        *("image_resend", "max_tokens_reduced", "stream_options_left_out", "rendered_left_out", "max_tokens_renamed"),
        *("model_retry", "image_token_in_text", "usage_missing"),
        *("interrupted", "interrupted_again", "kernel_died", "kernel_killed", "kernel_restarted"),
        *("cells_replayed", "replay_differs", "await_cancelled"),
        *("output_cut", "output_refused", "outputs_refused", "outputs_left_out", "images_refused"),
    )
)
"""The events of completions and cells that this package writes."""


def check_captions(trajectory: Trajectory) -> Iterator[Finding]:
    """Each step whose caption names an event of another kind."""
    for step in trajectory.steps:
        events = [*step.completion.events, *step.events, *(step.cell.events if step.cell is not None else ())]
        if unknown := sorted({event.kind for event in events} - KINDS):
            message = f"its caption names what this package does not write: {', '.join(unknown)!r:.300}"
            yield finding(f"step {step.index + 1}", "events", message, doubt="")
