"""The state of one completion over its tries, and what can be changed in a request that a server objects to."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from kernel_agent.errors import ModelError
from kernel_agent.models.faults import Reply, is_too_long
from kernel_agent.models.wire import Body, Dialect
from kernel_agent.types import Event, Json, Request

_ROOM = re.compile(r"maximum context length is (\d+) tokens and your request has (\d+) input tokens")


class Refused(Exception):
    """The server answered with an error; `reply` has it."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.message)
        self.reply = reply


@dataclass(kw_only=True)
class Work:
    """One completion: what is asked, how often so far, what came, what happened."""

    request: Request
    on_text: Callable[[str], None] | None
    max_tokens: int
    body: Body | None = None
    repeats: int = 0
    received: int = 0
    uploaded: int = 0
    first_token: float | None = None
    events: list[Event] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def note(self, kind: str, **data: Json) -> None:
        """Log an event."""
        self.events.append(Event(kind=kind, time=time.time(), data=data))

    def finally_failed(self, error: ModelError) -> ModelError:
        """`error`, which says how often it was tried."""
        if not self.repeats:
            return error
        seconds = time.monotonic() - self.started
        message = f"{error} (Asked {self.repeats + 1} times in {seconds:.1f} s.)"
        return type(error)(message, status=error.status, retryable=error.retryable)


def adapt(work: Work, reply: Reply, dialect: Dialect) -> tuple[str, Dialect] | None:
    """What to change so that asking again may succeed: the event's kind and the new dialect; each change only once.

    "image_resend": the server does not hold an image named by reference. "max_tokens_reduced": there is room for fewer.
    "stream_options_left_out", "rendered_left_out", "max_tokens_renamed": the server knows that parameter not, or by another name.
    """
    if reply.status not in (400, 404, 422):
        return None
    said, room = reply.message, _ROOM.search(reply.message)
    kind = ""
    if work.body and work.body.referenced and not is_too_long(reply):
        kind = "image_resend"
    elif room and 0 < int(room[1]) - int(room[2]) < work.max_tokens:
        kind, work.max_tokens = "max_tokens_reduced", int(room[1]) - int(room[2])
    elif "stream_options" in said and dialect.stream_options:
        kind, dialect = "stream_options_left_out", replace(dialect, stream_options=False)
    elif dialect.rendered and ("return_token_ids" in said or "return_prompt_text" in said):
        kind, dialect = "rendered_left_out", replace(dialect, rendered=False)
    elif "max_completion_tokens" in said and dialect.max_tokens == "max_tokens":
        kind, dialect = "max_tokens_renamed", replace(dialect, max_tokens="max_completion_tokens")
    if not kind or any(event.kind == kind for event in work.events):
        return None
    work.note(kind, message=said, **({"max_tokens": work.max_tokens} if kind == "max_tokens_reduced" else {}))
    return kind, dialect
